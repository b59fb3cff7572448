"""Reads and writes database rows of the queue: states, locks, and the phase that decides which index finds a task.

To avoid deadlocks on Postgres, locks are taken in one order: a person, then tasks, then the write lock (`in_order`).
Leases change only while their task is locked. A heartbeat needs no lock: it is a conditional UPDATE.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, bindparam, func, insert, select, update

from prefloop.config import Annotate
from prefloop.errors import DataError, ForbiddenError, LeaseError
from prefloop.labels.answer import from_ranking
from prefloop.messages import shown_turns
from prefloop.store import mapping
from prefloop.store.connections.database import Database
from prefloop.store.queue.types import Presentation
from prefloop.store.schema import audit, completions, drafts, items, leases, people, prompts, rankings, tasks
from prefloop.types import Prompt, content_from_json, digest

StoredRow = RowMapping | dict[str, Any]  # This is a row as read, or as just written.

# Statements that every answer needs are made once, since SQLAlchemy is slow at making one and finding it in its cache.
_PERSON = select(people).where(people.c.id == bindparam("person"))
_HOLD_PERSON = _PERSON.with_for_update(key_share=True)
_OWN_LEASE = select(leases).where(leases.c.id == bindparam("lease"), leases.c.person == bindparam("person"))
_TASK_OF_LEASE = (
    select(tasks)
    .where(
        tasks.c.seq
        == select(leases.c.task)
        .where(leases.c.id == bindparam("lease"), leases.c.person == bindparam("person"))
        .scalar_subquery()
    )
    .with_for_update()
)
_CHANGE_TASK = update(tasks).where(tasks.c.seq == bindparam("at"))
_CHANGE_LEASE = update(leases).where(leases.c.seq == bindparam("at"))
_CHANGE_PERSON = update(people).where(people.c.seq == bindparam("at"))
_SHOWN = (
    select(prompts, tasks.c.criterion, drafts.c.state.label("draft"))
    .join(items, items.c.prompt_id == prompts.c.id)
    .join(tasks, tasks.c.item_id == items.c.id)
    .outerjoin(drafts, drafts.c.lease == bindparam("lease"))
    .where(tasks.c.seq == bindparam("task"))
)
_ANSWERS = select(completions.c.id, completions.c.text, completions.c.messages)
_TEXTS = _ANSWERS.where(completions.c.id.in_(bindparam("ids", expanding=True)))
_MEMBERS = _ANSWERS.where(completions.c.item_id == bindparam("item")).order_by(completions.c.position)


class Phase(IntEnum):
    """A task has one of these phases, which is stored in `tasks.phase`."""

    FRESH = 0  # It was never handed out.
    HALF = 1  # It was handed out before, and a place is free.
    FULL = 2  # Every place is held or done.
    GOLD = 3  # Everybody gets it once, when gold is due.
    CLOSED = 4  # It was discarded.


@dataclass(frozen=True)
class QueueContext:
    """Holds what every function of the queue needs: the database, the rules, and the clock."""

    database: Database
    settings: Annotate  # the settings in force
    file: Annotate  # the settings of the file, without changes in the browser
    clock: Callable[[], float]
    seed: int

    @property
    def lease_s(self) -> float:
        return self.settings.lease_minutes * 60

    @property
    def cap_s(self) -> float:
        return max(self.settings.lease_hours * 3600, self.lease_s)


def phase_of(task: StoredRow) -> Phase:
    if task["discarded"] is not None:
        return Phase.CLOSED
    if task["gold"] is not None:
        return Phase.GOLD
    if task["done"] + task["live"] >= task["wanted"]:
        return Phase.FULL
    return Phase.FRESH if task["waiting_since"] is None else Phase.HALF


def change_task(connection: Connection, task: StoredRow, **changes: Any) -> dict[str, Any]:
    """Write changes to a locked task, and the phase that follows from them. Return the new task."""
    new: dict[str, Any] = {**dict(task), **changes}
    new["phase"] = int(phase_of(new))
    different = {key: value for key, value in new.items() if task[key] != value}
    if different:
        connection.execute(_CHANGE_TASK, {**different, "at": task["seq"]})
    return new


def change_lease(connection: Connection, lease: StoredRow, **changes: Any) -> dict[str, Any]:
    connection.execute(_CHANGE_LEASE, {**changes, "at": lease["seq"]})
    return {**dict(lease), **changes}


def change_person(connection: Connection, person: StoredRow, **changes: Any) -> None:
    connection.execute(_CHANGE_PERSON, {**changes, "at": person["seq"]})


def holding(now: float) -> tuple[ColumnElement[bool], ...]:
    """Return the condition of leases that hold their place.

    Expired ones count in `tasks.live` until the next sweep.
    """
    return leases.c.state == "live", leases.c.expires_at > now


def has_place(task: StoredRow) -> bool:
    """Return whether one more person may take the task. Gold has room for everybody."""
    return phase_of(task) in (Phase.FRESH, Phase.HALF, Phase.GOLD)


# -- people ------------------------------------------------------------------------------------------------------------


def lock_person(connection: Connection, id: str) -> RowMapping:
    """Lock the person's row and return it, so that two tabs of one person take turns. Raises ForbiddenError."""
    return able(connection.execute(_HOLD_PERSON, {"person": id}).mappings().first(), id)


def able_person(connection: Connection, id: str) -> RowMapping:
    """Return the row of somebody who may work, without a lock. Raises ForbiddenError."""
    return able(connection.execute(_PERSON, {"person": id}).mappings().first(), id)


def able(row: RowMapping | None, id: str) -> RowMapping:
    """Return the row, if this person may work. Raises ForbiddenError."""
    if row is None or row["name"] is None:
        raise ForbiddenError(f"there is nobody with the id {id!r}")
    if row["disabled"]:
        raise ForbiddenError(f"the account of {row['name']} is disabled. The owner can enable it again.")
    return row


def reviewer(connection: Connection, id: str | None) -> None:
    """Raise ForbiddenError unless `id` is an owner or a reviewer, or None for the command line."""
    if id is not None and able_person(connection, id)["role"] == "annotator":
        raise ForbiddenError("only reviewers and owners may do that")


# -- tasks and leases --------------------------------------------------------------------------------------------------


def lock_task(connection: Connection, where: ColumnElement[bool]) -> RowMapping | None:
    return connection.execute(select(tasks).where(where).with_for_update()).mappings().first()


def task_of_item(connection: Connection, context: QueueContext, item: str) -> RowMapping:
    """Lock the task of an item and return it. Raises DataError if there is none."""
    here = (tasks.c.item_id == item) & (tasks.c.criterion == context.settings.criterion)
    task = lock_task(connection, here)
    if task is None:
        raise DataError(f"item {item} is not in the queue for {context.settings.criterion!r}")
    return task


def own_lease(connection: Connection, person: str, lease: str) -> RowMapping:
    """Return the person's own lease. Raises the same LeaseError for another person's lease as for a missing one."""
    row = connection.execute(_OWN_LEASE, {"lease": lease, "person": person}).mappings().first()
    if row is None:
        raise LeaseError("there is no such item on your desk. Ask for the next one.")
    return row


def lock_lease(connection: Connection, person: str, lease: str) -> tuple[RowMapping, RowMapping]:
    """Return the task and the lease as they are after the task was locked. Raises LeaseError."""
    task = connection.execute(_TASK_OF_LEASE, {"lease": lease, "person": person}).mappings().first()
    row = own_lease(connection, person, lease)
    assert task is not None  # A foreign key guarantees it.
    return task, row


# -- what a person sees ------------------------------------------------------------------------------------------------


def members(connection: Connection, item: str) -> Sequence[Any]:
    """Return (id, text, turns as stored) of each answer of an item, in its own order."""
    return connection.execute(_MEMBERS, {"item": item}).all()


def present(
    connection: Connection, context: QueueContext, lease: StoredRow, answers: Sequence[Any] = ()
) -> Presentation:
    """Return a lease as its person sees it: letters and texts, and nothing that tells where they came from.

    answers: the item's `members`, if they have been read already
    """
    shown = json.loads(lease["shown"])
    row = connection.execute(_SHOWN, {"task": lease["task"], "lease": lease["id"]}).mappings().one()
    asked = mapping.to_prompt(row)
    found = answers or connection.execute(_TEXTS, {"ids": shown})
    said = {id: (text, mapping.turns(turns)) for id, text, turns in found}
    kept = row["draft"]
    answer = None
    if lease["reopened"] and lease["ranking_id"] is not None:
        given = connection.execute(select(rankings).where(rankings.c.id == lease["ranking_id"])).mappings().one()
        answer = from_ranking(mapping.to_ranking(given))
    return Presentation(
        lease=lease["id"],
        expires_at=lease["expires_at"],
        prompt=Prompt(asked.content, asked.system, tools=asked.tools),
        texts=tuple(said[id][0] for id in shown),
        turns=tuple(shown_turns(asked.content, *said[id]) for id in shown),
        criterion=row["criterion"],
        attributes=context.settings.attributes,
        draft=None if kept is None else json.loads(kept),
        answer=answer,
        position=lease["number"],
        returned=lease["returned"],
    )


# -- the log -----------------------------------------------------------------------------------------------------------


def note(
    connection: Connection,
    at: float,
    who: str | None,
    what: str,
    object: str,
    before: object = None,
    after: object = None,
) -> None:
    """Add one line to the audit log. It never holds names or texts, since it stays when its person is deleted."""
    connection.execute(
        insert(audit),
        {
            "at": at,
            "who": who,
            "what": what,
            "object": object,
            "before": None if before is None else digest("audit", before),
            "after": None if after is None else digest("audit", after),
        },
    )


def iso(at: float) -> str:
    """Return seconds since 1970 in the ISO form that rankings use."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")


def count(connection: Connection, table: Any, *where: ColumnElement[bool]) -> int:
    return int(connection.execute(select(func.count()).select_from(table).where(*where)).scalar_one())


def excerpt(content: str) -> str:
    """Return the `Prompt.start` of a stored prompt."""
    return Prompt(content_from_json(json.loads(content)), id="-").start


def plain(tiers: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(tier) for tier in tiers)
