"""Decides whether a prompt is for training or held out, as a pure function of its text.

Case, white space, Unicode form, roles and the system prompt are ignored, so a prompt and its near-duplicate are always
on the same side. A larger held-out share keeps every prompt that was held out under a smaller one.
"""

from __future__ import annotations

import hashlib
import unicodedata

from prefloop.types import Content, Prompt, Split

BUCKETS = 2**32


def fold(content: Content) -> str:
    """Return the text that decides: NFKC, case-folded, with runs of white space as one space."""
    text = content if isinstance(content, str) else " ".join(message.content or "" for message in content)
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def bucket(prompt: Prompt) -> int:
    """Return a number in [0, 2**32), evenly spread over distinct prompts."""
    folded = fold(prompt.content).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(b"split:" + folded).digest()[:4], "big")


def threshold(heldout: float) -> int:
    """Return the bucket below which prompts are held out."""
    return round(heldout * BUCKETS)


def split_of(prompt: Prompt, heldout: float) -> Split:
    """Return the split that the prompt states, or else that of its hash; `heldout` is a share in [0, 1)."""
    if prompt.split is not None:
        return prompt.split
    return "heldout" if bucket(prompt) < threshold(heldout) else "train"
