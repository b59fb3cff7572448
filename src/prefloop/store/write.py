"""Adds rows inside one write transaction: new rows are inserted, known rows stay, contradictions are refused.

Nothing here commits. Every function assumes that there is no other writer (see `database.py`), so it may look before it
inserts. UNIQUE constraints would stop it if that were ever wrong.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import Column, ColumnElement, Connection, delete, insert, select, update

from prefloop.errors import DataError
from prefloop.store import mapping
from prefloop.store.records import Counts
from prefloop.store.schema import completions, demonstrations, items, origins, prompts, rankings
from prefloop.types import Completion, Demonstration, Item, Prompt, Ranking, answer_key

Parsed = Prompt | Demonstration | Item
T = TypeVar("T")

_IN = 500  # One IN (...) has so many ids, because old SQLite builds allow 999 parameters.


def chunks(values: Iterable[T], size: int = _IN) -> Iterator[list[T]]:
    """Yield lists of at most `size` values, in order."""
    held: list[T] = []
    for value in values:
        held.append(value)
        if len(held) >= size:
            yield held
            held = []
    if held:
        yield held


def add_batch(connection: Connection, batch: Sequence[Parsed], round: int) -> Counts:
    """Add records. Known records stay as they are, except that an item may get new rankings."""
    shown = [record for record in batch if isinstance(record, Demonstration)]
    listed = [record for record in batch if isinstance(record, Item)]
    asked = [record if isinstance(record, Prompt) else record.prompt for record in batch]
    added_prompts = _add_prompts(connection, asked)
    demonstration_rows = {record.id: mapping.demonstration_row(record) for record in shown}
    added_demonstrations = _insert_new(connection, demonstrations, demonstrations.c.id, demonstration_rows)
    added_items, added_completions = _add_items(connection, listed, round)
    members = {item.id: {completion.id for completion in item.completions} for item in listed}
    added_rankings = insert_rankings(connection, [r for item in listed for r in _own_rankings(item)], members)
    return Counts(added_prompts, added_demonstrations, added_items, added_completions, added_rankings)


def add_origins(connection: Connection, batch: Sequence[Parsed], file: str) -> None:
    """Store where the records of a batch were read. A record keeps its first row of a file."""
    rows: dict[str, int] = {}
    for record in batch:
        if record.row is not None:
            said = [ranking.id for ranking in record.rankings] if isinstance(record, Item) else []
            for id in (record.id, *said):
                rows.setdefault(id, record.row)
    for ids in chunks(rows):
        known = select(origins.c.record_id).where(origins.c.sha256 == file, origins.c.record_id.in_(ids))
        for id in connection.scalars(known).all():
            del rows[id]
    _insert(connection, origins, [{"record_id": id, "sha256": file, "row": row} for id, row in rows.items()])


def _own_rankings(item: Item) -> tuple[Ranking, ...]:
    for ranking in item.rankings:
        if ranking.item_id != item.id:
            raise DataError(f"item {item.id} carries a ranking of item {ranking.item_id}; it belongs with its own item")
    return item.rankings


def _add_prompts(connection: Connection, asked: Sequence[Prompt]) -> int:
    """Insert prompts. A stated split is kept, is given to a known prompt without one, and never replaces another."""
    first: dict[str, Prompt] = {}
    stated: dict[str, str] = {}
    for prompt in asked:
        first.setdefault(prompt.id, prompt)
        if prompt.split is not None:
            stated.setdefault(prompt.id, prompt.split)
    rows = {key: mapping.prompt_row(prompt) | {"split": stated.get(key)} for key, prompt in first.items()}
    added = _insert_new(connection, prompts, prompts.c.id, rows)
    for ids in chunks(stated):
        undecided = select(prompts.c.id).where(prompts.c.id.in_(ids), prompts.c.split.is_(None))
        for key in connection.scalars(undecided).all():
            connection.execute(update(prompts).where(prompts.c.id == key).values(split=stated[key]))
    return added


def _add_items(connection: Connection, listed: Sequence[Item], round: int) -> tuple[int, int]:
    unique: dict[str, Item] = {}
    for item in listed:
        _same_list(item, _answers(unique.setdefault(item.id, item)))
    for key, known in stored_answers(connection, unique).items():
        _same_list(unique.pop(key), known)
    item_rows = [mapping.item_row(item, round) for item in unique.values()]
    completion_rows = [
        mapping.completion_row(completion, position, prompt_id=item.prompt.id, item_id=item.id)
        for item in unique.values()
        for position, completion in enumerate(item.completions)
    ]
    _refuse_taken(connection, completion_rows)
    _insert(connection, items, item_rows)
    _insert(connection, completions, completion_rows)
    return len(item_rows), len(completion_rows)


def _answers(item: Item) -> dict[str, object]:
    return {completion.id: completion.answer for completion in item.completions}


def _same_list(item: Item, known: Mapping[str, object]) -> None:
    """Raise DataError if known completion ids mean other answers now, because labels refer to these ids."""
    if _answers(item) != known:
        raise DataError(
            f"item {item.id} (record {item.external_id!r}) is already in the store with other completions. "
            "Give the changed record another id."
        )


def _refuse_taken(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    owner: dict[str, str] = {}
    for row in rows:
        if owner.setdefault(row["id"], row["item_id"]) != row["item_id"]:
            raise DataError(f"completion id {row['id']} is used by items {owner[row['id']]} and {row['item_id']}")
    for known in existing(connection, completions.c.id, owner):
        raise DataError(f"completion id {known} of item {owner[known]} is already used by another item or a rollout")
    if len(owner) != len(rows):
        raise DataError("an item names one completion id twice; ids must be unique in their item")


def stored_answers(connection: Connection, item_ids: Iterable[str]) -> dict[str, dict[str, object]]:
    """Return {item id: {completion id: its `answer`}} of the items that exist."""
    found: dict[str, dict[str, object]] = {}
    for ids in chunks(item_ids):
        found |= {key: {} for key in connection.scalars(select(items.c.id).where(items.c.id.in_(ids)))}
        columns = (completions.c.item_id, completions.c.id, completions.c.text, completions.c.messages)
        for item_id, key, text, turns in connection.execute(select(*columns).where(completions.c.item_id.in_(ids))):
            found[item_id][key] = answer_key(text, mapping.turns(turns))
    return found


def add_rankings(connection: Connection, events: Sequence[Ranking]) -> int:
    """Append events on items that exist. Return how many were new."""
    wanted = dict.fromkeys(ranking.item_id for ranking in events)
    known = stored_answers(connection, wanted)
    for missing in wanted:
        if missing not in known:
            raise DataError(
                f"ranking of item {missing}: there is no such item in the store. Import or sample it first."
            )
    return insert_rankings(connection, events, {key: set(answers) for key, answers in known.items()})


def insert_rankings(connection: Connection, events: Sequence[Ranking], members: Mapping[str, Collection[str]]) -> int:
    """Insert rankings. members: {item id: its completion ids}."""
    for ranking in events:
        check_ranking(ranking, members[ranking.item_id])
    fresh = {ranking.id: ranking for ranking in events}
    for known in existing(connection, rankings.c.id, fresh):
        del fresh[known]
    _refuse_circles(connection, fresh)
    _insert(connection, rankings, [mapping.ranking_row(ranking) for ranking in fresh.values()])
    return len(fresh)


def check_ranking(ranking: Ranking, members: Collection[str]) -> None:
    """Raise DataError unless every id is one of the item's, and no id is placed twice."""
    where = f"ranking {ranking.id} by {ranking.annotator!r} on item {ranking.item_id}"
    placed = [key for tier in ranking.tiers for key in tier]
    for name, keys in (("tiers", placed), ("unacceptable", ranking.unacceptable), ("shown", ranking.shown)):
        if len(set(keys)) != len(keys):
            twice = next(key for key in keys if list(keys).count(key) > 1)
            raise DataError(f"{where}: {name} names {twice} twice; name each completion once")
    for key in (*placed, *ranking.unacceptable, *ranking.shown, *ranking.ratings):
        if key not in members:
            raise DataError(f"{where}: {key!r} is not a completion of this item; it has {', '.join(sorted(members))}")


def _refuse_circles(connection: Connection, fresh: Mapping[str, Ranking]) -> None:
    """Raise DataError for rankings that supersede each other, since both would vanish."""
    for start in fresh.values():
        seen, at = {start.id}, start.supersedes
        while at is not None:
            if at in seen:
                raise DataError(
                    f"ranking {start.id} by {start.annotator!r}: `supersedes` leads round in a circle at {at}"
                )
            seen.add(at)
            if at in fresh:
                at = fresh[at].supersedes
            else:
                at = connection.scalar(select(rankings.c.supersedes).where(rankings.c.id == at))


def add_rollouts(connection: Connection, prompt_ids: Sequence[str], sampled: Sequence[Completion], run_id: str) -> None:
    """Add completions outside any item. A known id replaces the row, as after a resumed step."""
    known = existing(connection, prompts.c.id, prompt_ids)
    for key in prompt_ids:
        if key not in known:
            raise DataError(f"rollout of prompt {key}: there is no such prompt in the store")
    for ids in chunks(completion.id for completion in sampled):
        connection.execute(delete(completions).where(completions.c.id.in_(ids), completions.c.item_id.is_(None)))
    pairs = enumerate(zip(prompt_ids, sampled, strict=True))
    rows = [mapping.completion_row(c, place, prompt_id=key, run_id=run_id) for place, (key, c) in pairs]
    _insert(connection, completions, rows)


def existing(connection: Connection, column: Column[str], keys: Iterable[str]) -> set[str]:
    """Return which of the keys exist."""
    found: set[str] = set()
    for ids in chunks(keys):
        condition: ColumnElement[bool] = column.in_(ids)
        found.update(connection.scalars(select(column).where(condition)))
    return found


def _insert_new(connection: Connection, table: Any, column: Column[str], rows: Mapping[str, Mapping[str, Any]]) -> int:
    known = existing(connection, column, rows)
    fresh = [row for key, row in rows.items() if key not in known]
    _insert(connection, table, fresh)
    return len(fresh)


def _insert(connection: Connection, table: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    if rows:  # An empty list would insert one row of defaults.
        connection.execute(insert(table), rows)
