"""Offers people's rankings one by one, for loops, and as a table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from prefloop.store import Store
from prefloop.types import Item, Ranking

if TYPE_CHECKING:
    import pyarrow

CHUNK = 1000  # So many rankings are in memory at a time, as Python objects.


@dataclass(frozen=True)
class RankedList:
    """Holds one person's ranking of one list. ranks[i] is the place of completions[i]: 1 is best, equal places tie.

    ranks:      None where the person left a completion unplaced
    created_at: ISO 8601; None where it is not known
    """

    item: str
    prompt: str
    completions: tuple[str, ...]
    ranks: tuple[int | None, ...]
    annotator: str
    criterion: str
    round: int
    simulated: bool
    created_at: str | None
    duration_s: float | None
    comment: str | None


def ranked_lists(store: Store, criterion: str | None = None, round: int | None = None) -> Iterator[RankedList]:
    """Yield every ranking that counts, in the store's order, a few hundred lists in memory at a time."""
    for item in store.items(criterion=criterion, ranked=True, round=round):
        for ranking in item.rankings:
            if criterion in (None, ranking.criterion):
                yield _row(item, ranking)


def _row(item: Item, ranking: Ranking) -> RankedList:
    ranks = {id: place for place, tier in enumerate(ranking.tiers, start=1) for id in tier}
    return RankedList(
        item=item.external_id or item.id,
        prompt=item.prompt.text,
        completions=tuple(c.text for c in item.completions),
        ranks=tuple(ranks.get(c.id) for c in item.completions),
        annotator=ranking.annotator,
        criterion=ranking.criterion,
        round=item.round,
        simulated=ranking.simulated,
        created_at=ranking.created_at,
        duration_s=ranking.duration_s,
        comment=ranking.comment,
    )


def as_table(rows: Iterator[RankedList]) -> pyarrow.Table:
    """Return one row for each ranking, with the fields of `RankedList` as columns."""
    import pyarrow as pa

    kinds = {
        "completions": pa.list_(pa.string()),
        "ranks": pa.list_(pa.int64()),
        "round": pa.int64(),
        "simulated": pa.bool_(),
        "duration_s": pa.float64(),
    }
    schema = pa.schema([(f.name, kinds.get(f.name, pa.string())) for f in fields(RankedList)])
    batches = []
    held: list[RankedList] = []
    for row in rows:
        held.append(row)
        if len(held) == CHUNK:
            batches.append(_batch(held, schema))
            held = []
    return pa.Table.from_batches([*batches, _batch(held, schema)], schema)


def _batch(rows: list[RankedList], schema: pyarrow.Schema) -> pyarrow.RecordBatch:
    import pyarrow as pa

    return pa.RecordBatch.from_pylist([vars(row) for row in rows], schema)
