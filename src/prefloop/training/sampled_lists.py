"""Samples several completions for each prompt. One that nearly equals another of its list is drawn again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher

from prefloop.engine.base import Engine, Sampled, Sampling
from prefloop.models.tokenization import Tokenization
from prefloop.project.project import Project, derive
from prefloop.types import Completion, Item, Prompt, digest

ATTEMPTS = 3  # So often a completion is drawn again that nearly equals another of its list.
NEAR = 0.92  # Two texts are nearly equal from this ratio of SequenceMatcher on.


def item_id(prompt: Prompt, version: str, fingerprint: str) -> str:
    """Return the id of a sampled item, known before sampling, so that an interrupted run sees which items it has."""
    return digest("sampled", prompt.id, version, fingerprint)


def draw_lists(
    engine: Engine,
    tokenization: Tokenization,
    prompts: Sequence[tuple[Prompt, list[int]]],
    k: int,
    sampling: Sampling,
    avoid_duplicates: bool,
) -> tuple[list[list[Sampled]], int]:
    """Draw K samples for each prompt. One that nearly equals an earlier one of its list is drawn again a few times.

    Returns the lists, and how many near-duplicates are left.
    """
    slots = [(n, j) for n in range(len(prompts)) for j in range(k)]
    lists: list[list[Sampled | None]] = [[None] * k for _ in prompts]
    left = 0
    for attempt in range(ATTEMPTS + 1):
        keys = [derive(0, prompts[n][0].id, j, attempt) for n, j in slots]
        for (n, j), got in zip(slots, engine.generate([prompts[n][1] for n, _ in slots], keys, sampling), strict=True):
            lists[n][j] = got
        if not avoid_duplicates:
            break
        slots = [(n, j) for n, j in slots if _repeats(tokenization, lists[n], j)]
        left = len(slots)
        if not slots:
            break
    return [[s for s in row if s is not None] for row in lists], left


def _repeats(tokenization: Tokenization, row: Sequence[Sampled | None], place: int) -> bool:
    """Return whether a sample nearly equals an earlier one of its list."""
    return repeats([tokenization.decode(s.ids) if s else "" for s in row[: place + 1]], place)


def repeats(texts: Sequence[str], place: int) -> bool:
    """Return whether a text nearly equals an earlier one of its list."""
    mine = _fold(texts[place])
    return any(_near(mine, _fold(other)) for other in texts[:place])


def _fold(text: str) -> str:
    return " ".join(text.casefold().split())


def _near(a: str, b: str) -> bool:
    if a == b:
        return True
    matcher = SequenceMatcher(None, a, b, autojunk=False)
    return matcher.real_quick_ratio() > NEAR and matcher.quick_ratio() > NEAR and matcher.ratio() > NEAR


def make_item(
    tokenization: Tokenization,
    prompt: Prompt,
    samples: Sequence[Sampled],
    version: str,
    key: str,
    round: int,
    project: Project,
) -> Item:
    """Return an item of sampled completions, with everything that says how they were made."""
    id = item_id(prompt, version, key)
    completions = tuple(
        to_completion(tokenization, prompt, f"{id}:c{j}", s, version, project.config.sample.model_dump())
        for j, s in enumerate(samples)
    )
    return Item(id, prompt, completions, round=round, source="sample")


def to_completion(
    tokenization: Tokenization, prompt: Prompt, id: str, sample: Sampled, version: str, sampling: Mapping[str, object]
) -> Completion:
    return Completion(
        id=id,
        text=tokenization.decode(sample.ids, prompt),
        model=version,
        policy_version=version,
        token_ids=sample.ids,
        logprobs=sample.logprobs,
        finish_reason="stop" if sample.ended else "length",
        sampling={**sampling, "weights": sample.weights} if sample.weights else sampling,
        tokenizer=tokenization.fingerprint,
    )


def ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
