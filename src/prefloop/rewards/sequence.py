"""A prompt and an answer to it as one sequence of ids, cut where it is longer than a model reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prefloop.models.tokenization import Tokenization
from prefloop.types import Completion, Prompt


@dataclass(frozen=True)
class Joined:
    """prompt: how many ids are the prompt's; lost, shortened: how many of the answer and of the prompt were cut off."""

    ids: list[int]
    prompt: int
    lost: int = 0
    shortened: int = 0


def join(
    codec: Tokenization, prompt_ids: Sequence[int], answer: Sequence[int], max_tokens: int | None = None
) -> Joined:
    """Both in at most `max_tokens`, and in what the model reads.

    A sequence too long loses the *beginning of its prompt's text*: the answer is what is judged. The ids before that
    text stay (BOS, the head of a chat's first turn), since a model without them reads something it never learnt. An
    answer that is too long by itself loses its end.
    """
    limit = reads(codec, max_tokens)
    room = max(1, limit - len(answer))
    kept = list(prompt_ids)
    if len(kept) > room:
        head = codec.head_of(kept)
        head = head if head < room else min(room, int(kept[0] == codec.tokenizer.bos_token_id))
        kept = kept[:head] + kept[len(kept) - (room - head) :]
    ids = [*kept, *answer][:limit]
    return Joined(ids, len(kept), len(kept) + len(answer) - len(ids), len(prompt_ids) - len(kept))


def join_completion(
    codec: Tokenization, prompt: Prompt, completion: Completion, max_tokens: int | None = None
) -> Joined:
    """The same, of texts; sampled ids are taken as they are where this tokenizer made them."""
    prompt_ids = codec.encode_prompt(prompt)
    return join(codec, prompt_ids, codec.completion_ids(prompt, prompt_ids, completion), max_tokens)


def encode(
    codec: Tokenization, prompt: Prompt, completion: Completion, max_tokens: int | None = None
) -> tuple[list[int], int]:
    """(ids, how many are prompt) of a whole sequence."""
    joined = join_completion(codec, prompt, completion, max_tokens)
    return joined.ids, joined.prompt


def reads(codec: Tokenization, max_tokens: int | None) -> int:
    """The longest sequence, in tokens: what is asked for, as far as the model can."""
    return min(codec.context, max_tokens or codec.context)
