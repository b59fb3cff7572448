"""Deletes records, with everything that depends on them, in one transaction.

The ids stay in the snapshots of the models trained on them, and in `removals`, so that a model's history still says how
many of its rows are gone. Texts do not stay.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Column, Connection, Table, delete, exists, func, insert, select, update

from prefloop.errors import DataError
from prefloop.store import mapping
from prefloop.store.queue.fill import keep_setting
from prefloop.store.queue.read import setting
from prefloop.store.queue.rows import note
from prefloop.store.records import ModelRow
from prefloop.store.schema import (
    completions,
    demonstrations,
    drafts,
    imports,
    items,
    leases,
    logprobs,
    models,
    origins,
    people,
    prompts,
    rankings,
    removals,
    settings,
    snapshot_members,
    tasks,
)
from prefloop.store.store import Store
from prefloop.store.write import chunks, existing

Ids = set[str]


@dataclass
class Removal:
    """Lists what would be deleted, or was deleted: ids by kind.

    kept: records of the file that another file holds too
    by_people: rankings that people gave in this project
    models: models that learnt from any of it, and models made from those
    """

    prompts: Ids = field(default_factory=set)
    demonstrations: Ids = field(default_factory=set)
    items: Ids = field(default_factory=set)
    rankings: Ids = field(default_factory=set)
    kept: int = 0
    sampled_items: int = 0
    by_people: int = 0
    rollouts: int = 0
    # Each has the model through which it learnt; "" means directly.
    models: list[tuple[ModelRow, str]] = field(default_factory=list)

    @property
    def ids(self) -> Ids:
        return self.prompts | self.demonstrations | self.items | self.rankings


def plan(store: Store, ids: Collection[str] = (), files: Collection[str] = ()) -> Removal:
    """Return what `remove` would delete. It changes nothing. Raises DataError for an id that is not in the store."""
    with store.database.read() as connection:
        return _plan(connection, ids, files)


def remove(
    store: Store, ids: Collection[str] = (), files: Collection[str] = (), *, with_rankings: bool = False
) -> Removal:
    """Delete records by id, and all records that were read from files given by SHA-256. Return what was deleted.

    A prompt is deleted with its answers, and also if only a deleted record asked it. Raises DataError for an unknown
    id, and if people have ranked what would be deleted, unless `with_rankings`.
    """
    database = store.database
    with database.work(alone=True) as connection:
        database.in_order(connection)
        if database.sqlite:
            # SQLite overwrites freed pages, so that no traces stay.
            connection.exec_driver_sql("PRAGMA secure_delete = ON")
        gone = _plan(connection, ids, files)
        if gone.by_people and not with_rankings:
            raise DataError(
                f"people have ranked what would go: {gone.by_people} of their rankings would be lost. Say "
                "--with-rankings to remove them too; nothing was removed."
            )
        if gone.ids:
            _remove(connection, gone)
            counted = {name: len(getattr(gone, name)) for name in ("prompts", "demonstrations", "items", "rankings")}
            note(connection, time.time(), None, "remove", " ".join(f"{n} {name}" for name, n in counted.items()))
        _let_go(connection, files)
        return gone


# -- what is deleted
# ----------------------------------------------------------------------------------------------------


def _plan(connection: Connection, ids: Collection[str], files: Collection[str]) -> Removal:
    gone = Removal()
    named = set(ids)
    for table, found in ((prompts, gone.prompts), (demonstrations, gone.demonstrations), (items, gone.items)):
        found |= existing(connection, table.c.id, named)
    if unknown := named - gone.ids:
        raise DataError(f"there is no prompt, demonstration or item {sorted(unknown)[0]} in the store")
    candidates = _read_from(connection, files, gone)
    for kind, found in ((demonstrations, gone.demonstrations), (items, gone.items)):
        found |= _column(connection, kind.c.id, kind.c.prompt_id, gone.prompts)
        candidates |= _column(connection, kind.c.prompt_id, kind.c.id, found)
    alone = _unasked(connection, candidates - gone.prompts, gone, set(files))
    gone.prompts |= alone
    gone.items |= _column(connection, items.c.id, items.c.prompt_id, alone)
    gone.rankings |= _column(connection, rankings.c.id, rankings.c.item_id, gone.items)
    gone.sampled_items = len(_column(connection, items.c.id, items.c.id, gone.items, items.c.source == "sample"))
    by_people = (rankings.c.annotator.in_(select(people.c.id)), ~rankings.c.simulated)
    gone.by_people = len(_column(connection, rankings.c.id, rankings.c.id, gone.rankings, *by_people))
    rolled = completions.c.item_id.is_(None)
    gone.rollouts = sum(_count(connection, completions, completions.c.prompt_id, gone.prompts, rolled))
    gone.models = _learnt(connection, gone.ids)
    return gone


def _read_from(connection: Connection, files: Collection[str], gone: Removal) -> Ids:
    """Add the records that only these files hold to `gone`; return the prompts that may be deleted with them."""
    read: Ids = set()
    for part in chunks(files):
        read |= set(connection.scalars(select(origins.c.record_id).where(origins.c.sha256.in_(part))))
    elsewhere: Ids = set()
    for part in chunks(read):
        held = select(origins.c.record_id).where(origins.c.record_id.in_(part), origins.c.sha256.not_in(list(files)))
        elsewhere |= set(connection.scalars(held))
    only = read - elsewhere
    gone.kept += len(elsewhere)
    gone.demonstrations |= existing(connection, demonstrations.c.id, only)
    gone.items |= existing(connection, items.c.id, only)
    gone.rankings |= existing(connection, rankings.c.id, only)
    return existing(connection, prompts.c.id, only)


def _unasked(connection: Connection, candidates: Ids, gone: Removal, files: Ids) -> Ids:
    """Return prompts that no file holds by itself, and that no remaining demonstration or imported item asks."""
    asked: Ids = set()
    for part in chunks(candidates):
        own = select(origins.c.record_id).where(origins.c.record_id.in_(part))
        asked |= set(connection.scalars(own.where(origins.c.sha256.not_in(list(files))) if files else own))
        for kind, going in ((demonstrations, gone.demonstrations), (items, gone.items)):
            query = select(kind.c.id, kind.c.prompt_id).where(kind.c.prompt_id.in_(part))
            if kind is items:
                query = query.where(items.c.source != "sample")
            asked |= {row.prompt_id for row in connection.execute(query) if row.id not in going}
    free = candidates - asked
    return free if _numbered(connection) else free & _own(connection, free, files)


def _numbered(connection: Connection) -> bool:
    """Return whether the rows of every imported file are known. Older versions did not record them."""
    known = exists().where(origins.c.sha256 == imports.c.sha256)
    return connection.scalar(select(imports.c.seq).where(~known, imports.c.removed == 0).limit(1)) is None


def _own(connection: Connection, candidates: Ids, files: Ids) -> Ids:
    """Return the prompts that these files hold as such. Others may belong to a file whose rows are not known."""
    return _column(connection, origins.c.record_id, origins.c.record_id, candidates, origins.c.sha256.in_(list(files)))


def _learnt(connection: Connection, ids: Ids) -> list[tuple[ModelRow, str]]:
    """Return models whose snapshot holds any of these, and models that started from such a model, oldest first."""
    hashes = _column(connection, snapshot_members.c.snapshot_hash, snapshot_members.c.member_id, ids)
    found: dict[str, tuple[ModelRow, str]] = {}
    for row in connection.execute(select(models).order_by(models.c.seq)).mappings():
        model = mapping.to_model(row)
        if model.snapshot_hash in hashes:
            found[model.version] = (model, "")
        elif model.parent in found:
            found[model.version] = (model, model.parent)
    return list(found.values())


# -- deleting it
# --------------------------------------------------------------------------------------------------------


def _remove(connection: Connection, gone: Removal) -> None:
    held = _numbers(connection, tasks.c.seq, tasks.c.item_id, gone.items)
    lent = _column(connection, leases.c.id, leases.c.task, held)
    _delete(connection, drafts, drafts.c.lease, lent)
    _delete(connection, leases, leases.c.task, held)
    _delete(connection, tasks, tasks.c.seq, held)
    answers = _column(connection, completions.c.id, completions.c.item_id, gone.items)
    answers |= _column(connection, completions.c.id, completions.c.prompt_id, gone.prompts)
    _delete(connection, logprobs, logprobs.c.completion_id, answers)
    _delete(connection, rankings, rankings.c.id, gone.rankings)
    _delete(connection, completions, completions.c.id, answers)
    for table, ids in ((items, gone.items), (demonstrations, gone.demonstrations), (prompts, gone.prompts)):
        _delete(connection, table, table.c.id, ids)
    _count_out(connection, gone.ids)
    _delete(connection, origins, origins.c.record_id, gone.ids)
    fresh = gone.ids - existing(connection, removals.c.member_id, gone.ids)
    for part in chunks(fresh):
        connection.execute(insert(removals), [{"member_id": id, "removed_at": time.time()} for id in part])
    _rewind_queue(connection)


def _count_out(connection: Connection, ids: Ids) -> None:
    """Record in each file's import how many of its records are gone, so that it can be imported again."""
    lost: Counter[str] = Counter()
    for part in chunks(ids):
        query = select(origins.c.sha256, func.count()).where(origins.c.record_id.in_(part)).group_by(origins.c.sha256)
        lost.update({file: number for file, number in connection.execute(query)})
    for file, number in lost.items():
        here = imports.c.sha256 == file
        connection.execute(update(imports).where(here).values(removed=imports.c.removed + number))


def _let_go(connection: Connection, files: Collection[str]) -> None:
    """Remove the link between these files and records that other files hold too."""
    for file in files:
        held = connection.scalar(select(func.count()).select_from(origins).where(origins.c.sha256 == file)) or 0
        here = imports.c.sha256 == file
        connection.execute(update(imports).where(here).values(removed=imports.c.removed + held))
        connection.execute(delete(origins).where(origins.c.sha256 == file))


def _rewind_queue(connection: Connection) -> None:
    """Reset how far the queue was filled: SQLite gives the numbers of deleted items to new ones."""
    last = connection.scalar(select(func.coalesce(func.max(items.c.seq), 0)))
    for key in connection.scalars(select(settings.c.key).where(settings.c.key.startswith("fill:"))).all():
        at: Mapping[str, Any] = setting(connection, key, {})
        if at.get("items", 0) > (last or 0):
            keep_setting(connection, key, {**at, "items": last})


# -- ids, some hundred at a time ---------------------------------------------------------------------------------------


def _column(connection: Connection, wanted: Column[Any], by: Column[Any], keys: Iterable[Any], *more: Any) -> Ids:
    found: Ids = set()
    for part in chunks(keys):
        found |= set(connection.scalars(select(wanted).where(by.in_(part), *more)))
    return found


def _numbers(connection: Connection, wanted: Column[int], by: Column[str], keys: Iterable[str]) -> set[int]:
    return {number for part in chunks(keys) for number in connection.scalars(select(wanted).where(by.in_(part)))}


def _count(connection: Connection, table: Table, by: Column[Any], keys: Iterable[Any], *more: Any) -> Iterator[int]:
    for part in chunks(keys):
        yield int(connection.scalar(select(func.count()).select_from(table).where(by.in_(part), *more)) or 0)


def _delete(connection: Connection, table: Table, by: Column[Any], keys: Iterable[Any]) -> None:
    for part in chunks(keys):
        connection.execute(delete(table).where(by.in_(part)))
