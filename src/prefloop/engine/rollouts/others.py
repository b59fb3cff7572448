"""What dialects of servers by others share: seeds, many requests at once, and tokenizers that are compared by use."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from prefloop.engine.base import Sampled
from prefloop.engine.rollouts.canary import TEXTS
from prefloop.engine.rollouts.dialect import Job, Ours
from prefloop.engine.rollouts.http import Address, Damaged, Refused
from prefloop.engine.rollouts.side_by_side import all_of
from prefloop.engine.weights import Version, check_version
from prefloop.errors import ModelError
from prefloop.types import Prompt

AT_ONCE = 128  # These servers put the requests of one moment into one batch.
PROBE = "Say yes."


def each(job: Job, ask: Callable[[Sequence[int], int], Sampled]) -> list[Sampled]:
    """Return one sample for each prompt of a job. `ask` gets a prompt and its seed; requests are made side by side."""
    rows = list(zip(job.prompts, job.keys, strict=True))
    return all_of(lambda row: ask(row[0], seed_of(job, row[1])), rows, AT_ONCE)


def seed_of(job: Job, key: int) -> int:
    """Return 31 bits, which every server takes. It belongs to the key, so that a request can be repeated."""
    return int.from_bytes(hashlib.sha256(f"{job.seed}:{key}".encode()).digest()[:4], "big") >> 1


def intact(version: Version) -> None:
    """Look at the files of a version before a server reads them that does not look itself."""
    try:
        check_version(version)
    except ModelError as error:
        raise Damaged(str(error)) from None


def same_tokens(server: Address, ours: Ours, body: Callable[[str], dict[str, Any]]) -> None:
    """Raise Refused where the server's tokenizer gives other ids to some texts than ours."""
    for text in TEXTS:
        mine = ours.tokenization.tokenizer(text, add_special_tokens=False)["input_ids"]
        if server.post("/tokenize", body(text))["tokens"] != list(mine):
            raise Refused(
                f"{server} has another tokenizer: it gives other token ids to {text!r}. Start it with the model that "
                "is trained."
            )


def same_template(server: Address, ours: Ours, body: dict[str, Any]) -> None:
    """Raise Refused where prompts go through a chat template, and the server's writes another text."""
    if ours.tokenization.chat:
        mine = ours.tokenization.encode_prompt(Prompt(PROBE))
        if server.post("/tokenize", body)["tokens"] != list(mine):
            raise Refused(f"{server} has another chat template. Start it with the model that is trained.")
