"""Recognises that a list in a new file is an item that another file brought already.

Data sets are published in several forms (Open-Assistant's trees and its ranked replies), whose records have different
ids or none. Two items are the same if they ask the same, and everything that the new one ranks is ranked the same
there: by the same annotator and criterion, with the same answers in the same tiers. Answers that nobody ranked do not
matter.

Records of one file are never merged. Neither are anonymous rankings whose records have different ids, because two
people may well agree.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

from sqlalchemy import Connection, exists, select, true

from prefloop.store import read
from prefloop.store.schema import completions, items, origins
from prefloop.store.write import Parsed, chunks, existing
from prefloop.types import IMPORTED, Item, Ranking, digest

RankingContent = tuple[object, ...]


def replace_known(connection: Connection, batch: Sequence[Parsed], file: str) -> list[Parsed]:
    """Return the batch, with known items in place of those that say the same. `file` is the hash of their file."""
    listed = [record for record in batch if isinstance(record, Item) and record.rankings]
    known = existing(connection, items.c.id, (item.id for item in listed))
    fresh = [item for item in listed if item.id not in known]
    asked: dict[str, list[Item]] = defaultdict(list)
    for candidate in _candidates(connection, fresh, file):
        asked[candidate.prompt.id].append(candidate)
    here = _rows(connection, [candidate.id for found in asked.values() for candidate in found], file)
    same = {
        item.id: twin
        for item in fresh
        for other in asked[item.prompt.id]
        if here.get(other.id, item.row) == item.row and (twin := _twin(item, other))
    }
    return [same.get(record.id, record) if isinstance(record, Item) else record for record in batch]


def _candidates(connection: Connection, fresh: Sequence[Item], file: str) -> Iterator[Item]:
    """Yield imported items that ask the same and hold the answer that the new item ranks first.

    Other rows of the same file are left out, since thousands may share a prompt.
    """
    found: set[str] = set()
    for part in chunks(fresh, 200):
        best = {completion.text for item in part for completion in item.completions if completion.id == _best(item)}
        rows = [item.row for item in part if item.row is not None]
        here = (origins.c.record_id == items.c.id, origins.c.sha256 == file, origins.c.row.not_in(rows))
        query = select(items.c.id).join(completions, completions.c.item_id == items.c.id)
        query = query.where(items.c.prompt_id.in_({item.prompt.id for item in part}), items.c.source == "import")
        found |= set(connection.scalars(query.where(completions.c.text.in_(best), ~exists().where(*here))))
    for ids in chunks(sorted(found)):
        told = connection.execute(select(items).where(items.c.id.in_(ids)).order_by(items.c.seq)).mappings().all()
        yield from read.assemble(connection, told, true())


def _rows(connection: Connection, ids: Sequence[str], file: str) -> dict[str, int]:
    """Return {item id: its row} of items that were read from a file."""
    found: dict[str, int] = {}
    for part in chunks(ids):
        query = select(origins.c.record_id, origins.c.row).where(
            origins.c.sha256 == file, origins.c.record_id.in_(part)
        )
        found |= {id: row for id, row in connection.execute(query)}
    return found


def _best(item: Item) -> str | None:
    return next((ranking.tiers[0][0] for ranking in item.rankings if ranking.tiers), None)


def _twin(item: Item, known: Item) -> Item | None:
    """Return the known item with those of its rankings that the new one repeats.

    It is None if the new one says anything else.
    """
    differ = item.external_id != known.external_id and None not in (item.external_id, known.external_id)
    if differ and any(ranking.annotator == IMPORTED for ranking in item.rankings):
        return None
    there = {_said(known, ranking): ranking for ranking in known.rankings}
    repeated = [there.get(_said(item, ranking)) for ranking in item.rankings]
    if None in repeated:
        return None
    return replace(known, rankings=tuple(ranking for ranking in repeated if ranking), row=item.row)


def _said(item: Item, ranking: Ranking) -> RankingContent:
    """Return a ranking expressed by its answers' contents instead of their ids."""
    answers = {completion.id: digest(completion.answer) for completion in item.completions}
    tiers = tuple(tuple(sorted(answers[id] for id in tier)) for tier in ranking.tiers)
    unacceptable = tuple(sorted(answers[id] for id in ranking.unacceptable))
    return (ranking.annotator, ranking.criterion, tiers, unacceptable, ranking.none_acceptable, ranking.created_at)
