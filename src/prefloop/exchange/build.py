"""Builds items from drafts. A draft has local completion ids ("c0"); an item's own id is a hash of its content."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from prefloop.exchange.base import BadRow, quoted
from prefloop.types import ACCEPTABLE as ACCEPTABLE
from prefloop.types import IMPORTED as IMPORTED
from prefloop.types import Completion, Item, Prompt, Ranking, digest

PREFERENCE = "preference"


def build_item(
    prompt: Prompt,
    completions: Sequence[Completion],
    rankings: Iterable[Ranking],
    *,
    external_id: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    item_id: str | None = None,
    round: int = 0,
    source: str = "import",
) -> Item:
    """Return an item from completions and rankings with local ids. Raises BadRow if the ids do not agree."""
    known = [c.id for c in completions]
    if len(set(known)) < len(known):
        raise BadRow(f"two completions have the id {quoted(next(i for i in known if known.count(i) > 1))}")
    item_id = item_id or derived_item_id(prompt, external_id, completions)
    return Item(
        item_id,
        prompt,
        tuple(replace(c, id=f"{item_id}:{c.id}") for c in completions),
        tuple(_placed(r, ordinal, item_id, set(known)) for ordinal, r in enumerate(rankings)),
        external_id,
        round,
        source,
        metadata or {},
    )


def derived_item_id(prompt: Prompt, external_id: str | None, completions: Sequence[Completion]) -> str:
    return digest("item", prompt.id, external_id, [c.answer for c in completions])


def draft(annotator: str, criterion: str, tiers: Sequence[Sequence[str]], **more: Any) -> Ranking:
    """Return a ranking with local ids.

    An id given here (from our own exports) is kept; otherwise it is derived later.
    """
    given = {"id": UNPLACED, "ordinal": -1, **more}
    return Ranking(item_id="", annotator=annotator, criterion=criterion, tiers=tuple(map(tuple, tiers)), **given)


UNPLACED = "-"  # a draft has no id yet, which saves computing a hash


def _placed(ranking: Ranking, ordinal: int, item_id: str, known: set[str]) -> Ranking:
    once(known, [local for tier in ranking.tiers for local in tier], "ranked")
    once(known, ranking.unacceptable, "marked unacceptable")
    once(known, ranking.shown, "shown")
    once(known, list(ranking.ratings), "rated")
    if not all(ranking.tiers):
        raise BadRow("a tier is empty")
    return replace(
        ranking,
        item_id=item_id,
        tiers=tuple(tuple(f"{item_id}:{local}" for local in tier) for tier in ranking.tiers),
        unacceptable=tuple(f"{item_id}:{local}" for local in ranking.unacceptable),
        shown=tuple(f"{item_id}:{local}" for local in ranking.shown),
        ratings={f"{item_id}:{local}": rated for local, rated in ranking.ratings.items()},
        ordinal=ordinal if ranking.ordinal < 0 else ranking.ordinal,
        id="" if ranking.id == UNPLACED else ranking.id,
    )


def once(known: set[str], ids: Sequence[str], verb: str) -> None:
    """Raise BadRow unless every id belongs to a completion and none is named twice."""
    seen: set[str] = set()
    for local in ids:
        if local not in known:
            raise BadRow(f"no completion has the id {quoted(local)}, which is {verb}")
        if local in seen:
            raise BadRow(f"{quoted(local)} is {verb} twice")
        seen.add(local)


def by_score(scores: Mapping[str, float]) -> tuple[tuple[str, ...], ...]:
    """Return the tiers of {local id: score}. Higher scores are better, and equal scores tie."""
    levels = sorted(set(scores.values()), reverse=True)
    return tuple(tuple(local for local, score in scores.items() if score == level) for level in levels)
