"""Reads records: selections as SQL conditions, in chunks that need a fixed number of queries."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, Select, and_, exists, func, or_, select
from sqlalchemy.sql.expression import true

from prefloop.store import mapping
from prefloop.store.connections.database import Database
from prefloop.store.schema import completions, demonstrations, items, people, prompts, rankings, tasks
from prefloop.store.split import threshold
from prefloop.store.write import chunks
from prefloop.types import Completion, Demonstration, Item, Prompt, Ranking, Split

CHUNK = 256  # So many items are in memory at once.


def effective() -> ColumnElement[bool]:
    """Return the condition of rankings that no other ranking of the same item supersedes."""
    newer = rankings.alias("newer")
    return ~exists().where(newer.c.supersedes == rankings.c.id, newer.c.item_id == rankings.c.item_id)


def trusted() -> ColumnElement[bool]:
    """Return the condition of rankings by people who are not excluded, of items that are not discarded."""
    excluded = select(people.c.id).where(people.c.excluded.is_not(None))
    of_task = (tasks.c.item_id == rankings.c.item_id) & (tasks.c.criterion == rankings.c.criterion)
    return and_(rankings.c.annotator.not_in(excluded), ~exists().where(of_task, tasks.c.discarded.is_not(None)))


def on_side(split: Split | None, heldout: float) -> ColumnElement[bool]:
    """Return `split_of` as an SQL condition."""
    if split is None:
        return true()
    by_hash = prompts.c.bucket < threshold(heldout)
    if split == "train":
        by_hash = ~by_hash
    return or_(prompts.c.split == split, and_(prompts.c.split.is_(None), by_hash))


@dataclass(frozen=True)
class ItemQuery:
    """Says which items to read, and which of their rankings."""

    split: Split | None = None
    heldout: float = 0.1
    source: str | None = None
    round: int | None = None
    criterion: str | None = None
    ranked: bool | None = None
    excluded: bool = False

    def rows(self, after: int) -> Select[Any]:
        query = select(items).where(items.c.seq > after).order_by(items.c.seq).limit(CHUNK)
        if self.split is not None:
            query = query.join(prompts, prompts.c.id == items.c.prompt_id).where(on_side(self.split, self.heldout))
        if self.source is not None:
            query = query.where(items.c.source == self.source)
        if self.round is not None:
            query = query.where(items.c.round == self.round)
        if self.ranked is not None:
            counted = exists().where(rankings.c.item_id == items.c.id, self.counted())
            query = query.where(counted if self.ranked else ~counted)
        return query

    def counted(self) -> ColumnElement[bool]:
        """Return the condition of the rankings that are attached to the items."""
        found = effective() if self.criterion is None else and_(effective(), rankings.c.criterion == self.criterion)
        return found if self.excluded else and_(found, trusted())


def stream_items(database: Database, query: ItemQuery) -> Iterator[Item]:
    """Yield items in chunks. Each chunk is one short read, so that a slow consumer never holds up the writer."""
    after = 0
    while True:
        with database.read() as connection:
            rows = connection.execute(query.rows(after)).mappings().all()
            chunk = assemble(connection, rows, query.counted())
        yield from chunk
        if len(rows) < CHUNK:
            return
        after = rows[-1]["seq"]


def assemble(connection: Connection, rows: Sequence[RowMapping], counted: ColumnElement[bool]) -> list[Item]:
    """Return items from item rows, with three more queries however many there are."""
    ids = [row["id"] for row in rows]
    asked = prompts_by_id(connection, {row["prompt_id"] for row in rows})
    members: dict[str, list[Completion]] = defaultdict(list)
    judged: dict[str, list[Ranking]] = defaultdict(list)
    for part in chunks(ids):
        of_items = select(completions).where(completions.c.item_id.in_(part)).order_by(completions.c.position)
        for row in connection.execute(of_items).mappings():
            members[row["item_id"]].append(mapping.to_completion(row))
        on_items = select(rankings).where(rankings.c.item_id.in_(part), counted).order_by(rankings.c.seq)
        for row in connection.execute(on_items).mappings():
            judged[row["item_id"]].append(mapping.to_ranking(row))
    return [mapping.to_item(row, asked[row["prompt_id"]], members[row["id"]], judged[row["id"]]) for row in rows]


def items_by_id(connection: Connection, ids: Iterable[str]) -> dict[str, Item]:
    found: dict[str, Item] = {}
    for part in chunks(dict.fromkeys(ids)):
        rows = connection.execute(select(items).where(items.c.id.in_(part))).mappings().all()
        found |= {item.id: item for item in assemble(connection, rows, effective())}
    return found


def prompts_by_id(connection: Connection, ids: Iterable[str]) -> dict[str, Prompt]:
    found: dict[str, Prompt] = {}
    for part in chunks(ids):
        for row in connection.execute(select(prompts).where(prompts.c.id.in_(part))).mappings():
            found[row["id"]] = mapping.to_prompt(row)
    return found


def read_prompts(connection: Connection, split: Split | None, heldout: float, limit: int | None) -> list[Prompt]:
    query = select(prompts).where(on_side(split, heldout)).order_by(prompts.c.seq).limit(limit)
    return [mapping.to_prompt(row) for row in connection.execute(query).mappings()]


def read_demonstrations(connection: Connection, split: Split | None, heldout: float) -> list[Demonstration]:
    joined = select(demonstrations).join(prompts, prompts.c.id == demonstrations.c.prompt_id)
    query = joined.where(on_side(split, heldout)).order_by(demonstrations.c.seq)
    rows = connection.execute(query).mappings().all()
    asked = prompts_by_id(connection, {row["prompt_id"] for row in rows})
    return [mapping.to_demonstration(row, asked[row["prompt_id"]]) for row in rows]


def stream_rollouts(database: Database, run_id: str, limit: int | None) -> Iterator[tuple[Prompt, Completion]]:
    after, left = 0, limit
    while left is None or left > 0:
        size = CHUNK if left is None else min(CHUNK, left)
        of_run = select(completions).where(completions.c.run_id == run_id, completions.c.seq > after)
        with database.read() as connection:
            rows = connection.execute(of_run.order_by(completions.c.seq).limit(size)).mappings().all()
            asked = prompts_by_id(connection, {row["prompt_id"] for row in rows})
        yield from ((asked[row["prompt_id"]], mapping.to_completion(row)) for row in rows)
        if len(rows) < size:
            return
        after = rows[-1]["seq"]
        left = None if left is None else left - size


def read_counts(connection: Connection) -> dict[str, Any]:
    """Return totals for `doctor` and the report. `rankings` counts all events, the other labels only effective ones."""

    def count(column: Any, *where: ColumnElement[bool]) -> int:
        return int(connection.execute(select(func.count(column)).where(*where)).scalar_one())

    return {
        "prompts": count(prompts.c.seq),
        "demonstrations": count(demonstrations.c.seq),
        "items": count(items.c.seq),
        "completions": count(completions.c.seq, completions.c.item_id.is_not(None)),
        "rollouts": count(completions.c.seq, completions.c.item_id.is_(None)),
        "rankings": count(rankings.c.seq),
        "effective": count(rankings.c.seq, effective()),
        "simulated": count(rankings.c.seq, effective(), rankings.c.simulated),
        "annotators": count(rankings.c.annotator.distinct(), effective()),
        "criteria": read_criteria(connection),
    }


def read_criteria(connection: Connection) -> dict[str, int]:
    number = func.count(rankings.c.seq)
    query = select(rankings.c.criterion, number).where(effective()).group_by(rankings.c.criterion)
    found: Mapping[str, int] = {name: total for name, total in connection.execute(query)}
    return dict(sorted(found.items(), key=lambda pair: (-pair[1], pair[0])))
