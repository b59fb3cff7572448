"""Checks that everything in the store is consistent, for `prefloop doctor`. It reads the whole store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, and_, exists, func, select

from prefloop.errors import DataError, StoreError
from prefloop.store import mapping
from prefloop.store.connections.database import Database
from prefloop.store.schema import (
    completions,
    demonstrations,
    items,
    leases,
    prompts,
    rankings,
    removals,
    snapshot_members,
    snapshots,
    tasks,
)
from prefloop.store.split import bucket
from prefloop.store.write import check_ranking, chunks, stored_answers
from prefloop.types import Snapshot

_MEMBERS: dict[str, Any] = {"demonstrations": demonstrations, "rankings": rankings, "prompts": prompts}


def problems(database: Database) -> list[str]:
    """Return one sentence for each fault, or [] if there is none.

    A file that is too damaged to read counts as a fault.
    """
    try:
        with database.read() as connection:
            damage = list(_sqlite_damage(connection)) if database.sqlite else []
            return damage or [
                *_lost_parents(connection),
                *_bad_rankings(connection),
                *_bad_snapshots(connection),
                *_bad_tasks(connection),
            ]
    except StoreError as error:
        return [str(error)]


def _sqlite_damage(connection: Connection) -> Iterator[str]:
    for (line,) in connection.exec_driver_sql("PRAGMA integrity_check"):
        if line != "ok":
            yield f"the file is damaged: {line}"
    for row in connection.exec_driver_sql("PRAGMA foreign_key_check"):
        yield f"row {row[1]} of {row[0]} refers to a row of {row[2]} that does not exist"


def _lost_parents(connection: Connection) -> Iterator[str]:
    """Yield faults about rows that refer to missing rows. Another program may have switched foreign keys off."""
    for table in (demonstrations, items, completions):
        lost = select(table.c.id).where(table.c.prompt_id.not_in(select(prompts.c.id)))
        for key in connection.scalars(lost):
            yield f"{table.name}: {key} belongs to a prompt that does not exist"
    elsewhere = select(completions.c.id).join(items, items.c.id == completions.c.item_id)
    for key in connection.scalars(elsewhere.where(items.c.prompt_id != completions.c.prompt_id)):
        yield f"completions: {key} answers another prompt than its item asks"
    stale = select(prompts).order_by(prompts.c.seq)
    for row in connection.execute(stale).mappings():
        if bucket(mapping.to_prompt(row)) != row["bucket"]:
            yield f"prompts: {row['id']} was edited: its text no longer gives the stored held-out bucket"


def _bad_rankings(connection: Connection) -> Iterator[str]:
    for rows in chunks(connection.execute(select(rankings).order_by(rankings.c.seq)).mappings()):
        members = stored_answers(connection, {row["item_id"] for row in rows})
        for row in rows:
            try:
                check_ranking(mapping.to_ranking(row), members.get(row["item_id"], {}))
            except DataError as error:
                yield str(error)


def _bad_snapshots(connection: Connection) -> Iterator[str]:
    for row in connection.execute(select(snapshots).order_by(snapshots.c.seq)).mappings().all():
        of_snapshot = snapshot_members.c.snapshot_hash == row["hash"]
        ids = connection.scalars(select(snapshot_members.c.member_id).where(of_snapshot)).all()
        if Snapshot(row["kind"], tuple(sorted(ids))).hash != row["hash"]:
            yield f"snapshot {row['hash']}: its members do not give its hash; it has {len(ids)} of {row['size']}"
        kind = _MEMBERS[row["kind"]]
        member = snapshot_members.c.member_id
        # These rankings were deleted, or left with a deleted person.
        gone = exists().where(removals.c.member_id == member)
        lost = (
            select(func.count()).select_from(snapshot_members).where(of_snapshot, ~exists().where(kind.c.id == member))
        )
        if missing := connection.execute(lost.where(~gone)).scalar_one():
            yield f"snapshot {row['hash']}: {missing} of its {row['kind']} are not in the store"


def _bad_tasks(connection: Connection) -> Iterator[str]:
    """Yield faults about tasks with wrong counts, for which the queue would ask too many or too few people."""
    held = select(leases.c.task, func.count().label("n")).where(leases.c.state == "live").group_by(leases.c.task)
    live = held.subquery()
    query = select(tasks.c.item_id, tasks.c.live, func.coalesce(live.c.n, 0)).outerjoin(
        live, live.c.task == tasks.c.seq
    )
    for item, counted, there in connection.execute(query.where(tasks.c.live != func.coalesce(live.c.n, 0))):
        yield f"tasks: item {item} counts {counted} people at work on it, but {there} have it"
    ordinary = and_(tasks.c.gold.is_(None), tasks.c.arm != "gold")  # A gold item may have been made ordinary again.
    full = tasks.c.done + tasks.c.live > tasks.c.wanted
    for item, done, wanted in connection.execute(
        select(tasks.c.item_id, tasks.c.done + tasks.c.live, tasks.c.wanted).where(ordinary, full)
    ):
        yield f"tasks: item {item} was given to {done} people, {wanted} were wanted"
