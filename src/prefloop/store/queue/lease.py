"""Finds the next item for a person.

The order is: their own open work, gold that is due, the oldest half-done task, a new task. Every step is one look into
an index, whatever the size of the queue. Finding "the oldest half-done task that this person has not had" needs help:
for each tag, `people.cursors` keeps a time before which the person has had them all. A cursor may overtake a task (two
servers' clocks differ, or a task was locked for a moment). Therefore a person who would get nothing gets one search
without cursors.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, bindparam, exists, func, insert, select, update

from prefloop.labels.assign import draw, gold_due, shuffled, wants_random
from prefloop.store import mapping
from prefloop.store.queue.rows import (
    Phase,
    QueueContext,
    StoredRow,
    able_person,
    change_lease,
    change_person,
    change_task,
    has_place,
    lock_person,
    lock_task,
    members,
    own_lease,
    present,
)
from prefloop.store.queue.types import Presentation
from prefloop.store.schema import leases, tasks

_SWEPT = 200  # One call releases at most so many leases; the next call continues.
CLOCKS_APART_S = 60  # The clocks of two servers may differ by so many seconds.
_TRIES = 5  # Somebody else may be faster so often before the search gives up.


class _Look:
    """Holds a query for a task, in two forms: one reads the first row, and one also locks it, skipping locked rows."""

    def __init__(self, query: Select[Any]) -> None:
        self.see = query.limit(1)
        self.hold = self.see.with_for_update(skip_locked=True)


# Statements that every item needs are made once, since SQLAlchemy is slow at making one and finding it in its cache.
_HERE, _ME = tasks.c.criterion == bindparam("criterion"), leases.c.person == bindparam("person")
_MINE = select(leases).join(tasks, tasks.c.seq == leases.c.task).where(_ME, _HERE)
_ENDS = select(
    select(func.min(leases.c.expires_at)).where(leases.c.state == "live").scalar_subquery().label("first"),
    select(func.max(leases.c.expires_at)).where(leases.c.state == "live").scalar_subquery().label("last"),
)
_LIVE = _MINE.where(leases.c.state == "live").order_by(leases.c.started_at, leases.c.seq)
_RETURNED = (
    _MINE.where(leases.c.returned_at.is_not(None), leases.c.id != bindparam("after"), tasks.c.discarded.is_(None))
    .order_by(leases.c.returned_at, leases.c.seq)
    .limit(1)
)
_DROPPED = (
    _MINE.with_only_columns(leases.c.id, leases.c.task)
    .where(leases.c.state == "expired", leases.c.id != bindparam("after"))
    .where(tasks.c.phase.in_([int(Phase.FRESH), int(Phase.HALF), int(Phase.GOLD)]))
    .order_by(leases.c.seq.desc())
    .limit(1)
)
_UNSEEN = ~exists().where(_ME, leases.c.task == tasks.c.seq)
_IN_PHASE = select(tasks).where(_HERE, tasks.c.phase == bindparam("phase"), tasks.c.tag == bindparam("tag"))
_LAST_WAITING = _IN_PHASE.with_only_columns(func.max(tasks.c.waiting_since))
_ANY = _IN_PHASE.with_only_columns(tasks.c.seq).where(_UNSEEN).order_by(tasks.c.waiting_since).limit(1)
_WAITING = _Look(
    _IN_PHASE.where(tasks.c.waiting_since >= bindparam("since"), _UNSEEN).order_by(tasks.c.waiting_since, tasks.c.seq)
)
_BY_PRIORITY = _Look(_IN_PHASE.order_by(tasks.c.priority.desc(), tasks.c.shuffle.desc()))
_CIRCLE = (
    _Look(_IN_PHASE.where(tasks.c.shuffle >= bindparam("point")).order_by(tasks.c.shuffle)),
    _Look(_IN_PHASE.where(tasks.c.shuffle < bindparam("point")).order_by(tasks.c.shuffle)),
)
_UNSEEN_CIRCLE = (
    _Look(_IN_PHASE.where(tasks.c.shuffle >= bindparam("point"), _UNSEEN).order_by(tasks.c.shuffle)),
    _Look(_IN_PHASE.where(tasks.c.shuffle < bindparam("point"), _UNSEEN).order_by(tasks.c.shuffle)),
)
_NEW_LEASE = insert(leases)


def next_item(context: QueueContext, person: str, after: str | None) -> Presentation | None:
    """See `Queue.next`."""
    now = context.clock()
    with context.database.read() as connection:
        if after is None:  # Reloading a page writes nothing.
            current = next(iter(_live(connection, context, person)), None)
            if current is not None and current["expires_at"] - now > context.lease_s / 2:
                able_person(connection, person)
                return present(connection, context, current)
        first, last = connection.execute(_ENDS).one()
    earliest, latest = _bounds(context, now)
    if first is not None and (first <= earliest or last > latest):
        sweep(context, now)
    with context.database.work() as connection:
        return _take(connection, context, lock_person(connection, person), after, now)


# -- expired leases ---------------------------------------------------------------------------------------------------


def _bounds(context: QueueContext, now: float) -> tuple[float, float]:
    """Return the times between which every live lease should end.

    One that ends at the first or before has expired. One that ends after the second ends later than any lease given now
    could: the clock was put back, or the lease time was shortened.
    """
    return now, now + context.lease_s + CLOCKS_APART_S


def sweep(context: QueueContext, now: float) -> None:
    """Give the places of expired leases back to their tasks. It is a transaction of its own, since it locks many tasks.

    A lease that ends too late gets the ordinary time from now on. Ending it at once would give its place to somebody
    else while the person is still at work.
    """
    earliest, latest = _bounds(context, now)
    live = leases.c.state == "live"
    expired, too_late = live & (leases.c.expires_at <= earliest), live & (leases.c.expires_at > latest)
    with context.database.work() as connection:
        connection.execute(update(leases).where(too_late).values(expires_at=now + context.lease_s))
        stale = select(tasks).join(leases, leases.c.task == tasks.c.seq).where(expired).limit(_SWEPT)
        held = connection.execute(stale.with_for_update(of=tasks, skip_locked=True)).mappings().all()
        for task in {row["seq"]: row for row in held}.values():
            mine = update(leases).where(leases.c.task == task["seq"], expired).values(state="expired")
            gone = connection.execute(mine).rowcount
            if gone:
                change_task(connection, task, live=task["live"] - gone, waiting_since=now)


# -- the next task of a person ----------------------------------------------------------------------------------------


def _take(
    connection: Connection, context: QueueContext, me: RowMapping, after: str | None, now: float
) -> Presentation | None:
    live = _live(connection, context, me["id"])
    current = next((row for row in live if row["id"] != after), None)
    if current is not None:
        return present(connection, context, renew(connection, context, current, now))
    if me["excluded"] is not None:
        return None
    if (returned := _returned(connection, context, me["id"], after)) is not None:
        return present(connection, context, change_lease(connection, returned, reopened=True))
    most = context.settings.limit if me["most"] is None else me["most"]
    if most is not None and me["done"] + len(live) >= most:
        return None
    if (dropped := _dropped(connection, context, me["id"], after, now)) is not None:
        return present(connection, context, dropped)
    return _new(connection, context, me, now)


def _live(connection: Connection, context: QueueContext, person: str) -> Sequence[RowMapping]:
    return connection.execute(_LIVE, {"person": person, "criterion": context.settings.criterion}).mappings().all()


def renew(connection: Connection, context: QueueContext, lease: StoredRow, now: float) -> StoredRow:
    """Give a lease its whole time again, because the person has asked for the item again."""
    return change_lease(connection, lease, started_at=now, expires_at=now + context.lease_s)


def _returned(connection: Connection, context: QueueContext, person: str, after: str | None) -> RowMapping | None:
    mine = {"person": person, "criterion": context.settings.criterion, "after": after or ""}
    return connection.execute(_RETURNED, mine).mappings().first()


def _dropped(
    connection: Connection, context: QueueContext, person: str, after: str | None, now: float
) -> StoredRow | None:
    """Return this person's expired lease whose place is still free, since their draft belongs to it; else None."""
    mine = {"person": person, "criterion": context.settings.criterion, "after": after or ""}
    found = connection.execute(_DROPPED, mine).first()
    if found is None:
        return None
    task = lock_task(connection, tasks.c.seq == found.task)
    return revive(connection, context, task, own_lease(connection, person, found.id), now)


def revive(
    connection: Connection, context: QueueContext, task: StoredRow | None, lease: StoredRow, now: float
) -> StoredRow | None:
    """Reactivate an expired lease if its place is still free. The task must be locked."""
    if task is None or lease["state"] != "expired" or not has_place(task):
        return None
    change_task(connection, task, live=task["live"] + 1)
    return change_lease(connection, lease, state="live", started_at=now, expires_at=now + context.lease_s)


# -- a new item --------------------------------------------------------------------------------------------------------


def _new(connection: Connection, context: QueueContext, me: RowMapping, now: float) -> Presentation | None:
    finder = _Finder(connection, context, me)
    task, arm = None, "gold"
    if gold_due(me["taken"], me["gold_taken"], context.settings.gold_share, context.seed, me["id"]):
        task = finder.on_the_circle(Phase.GOLD, _UNSEEN_CIRCLE)
    if task is None:
        task, arm = finder.oldest_half_done(), "half"
    if task is None and wants_random(me["taken"], context.settings.random_share, context.seed, me["id"]):
        task, arm = finder.on_the_circle(Phase.FRESH, _CIRCLE), "random"
    if task is None:
        task, arm = finder.most_informative(), "priority"
    if task is None:
        task, arm = finder.anything()
    if task is None:
        if finder.cursors != json.loads(me["cursors"]):
            change_person(connection, me, cursors=mapping.dumps(finder.cursors))
        return None
    return _lease(connection, context, me, task, arm, finder.cursors, now)


class _Finder:
    """Finds a task for one person and locks it.

    On SQLite nobody else writes at the same time. On Postgres tasks that others have locked are skipped.
    """

    def __init__(self, connection: Connection, context: QueueContext, me: RowMapping) -> None:
        self._connection, self._context, self._me = connection, context, me
        self.tags: tuple[str, ...] = ("", *json.loads(me["groups"]))
        self.cursors: dict[str, float] = json.loads(me["cursors"])

    def _where(self, phase: Phase, tag: str, **more: Any) -> dict[str, Any]:
        here = {"criterion": self._context.settings.criterion, "phase": int(phase), "tag": tag}
        return {**here, "person": self._me["id"], **more}

    def _first(self, query: Select[Any], where: dict[str, Any]) -> RowMapping | None:
        return self._connection.execute(query, where).mappings().first()

    def _best(
        self, look: _Look, places: Sequence[dict[str, Any]], key: str, *, largest: bool = False
    ) -> RowMapping | None:
        """Return the first row of the place whose first row comes first by `key`.

        Each tag has one query, which uses an index.
        """
        while places:
            if len(places) == 1:
                return self._first(look.hold, places[0])
            tops = [(self._first(look.see, place), place) for place in places]
            found = [(row[key], n) for n, (row, _) in enumerate(tops) if row is not None]
            if not found:
                return None
            n = (max if largest else min)(found)[1]
            if (row := self._first(look.hold, tops[n][1])) is not None:
                return row
            places = [place for m, (top, place) in enumerate(tops) if m != n and top is not None]
        return None

    def on_the_circle(self, phase: Phase, looks: tuple[_Look, _Look]) -> RowMapping | None:
        """Return a random task: the next one by `tasks.shuffle` after a random point, wrapping around at the end."""
        point = draw(self._context.seed, "point", self._me["id"], self._me["taken"]).random()
        for look in looks:
            places = [self._where(phase, tag, point=point) for tag in self.tags]
            if (row := self._best(look, places, "shuffle")) is not None:
                return row
        return None

    def most_informative(self) -> RowMapping | None:
        fresh = [self._where(Phase.FRESH, tag) for tag in self.tags]
        return self._best(_BY_PRIORITY, fresh, "priority", largest=True)

    def oldest_half_done(self) -> RowMapping | None:
        places = []
        for tag in self.tags:
            first = self._first(_WAITING.see, self._where(Phase.HALF, tag, since=self.cursors.get(tag, 0.0)))
            if first is not None:
                self.cursors[tag] = first["waiting_since"]
                places.append(self._where(Phase.HALF, tag, since=first["waiting_since"]))
            else:
                self.cursors[tag] = self._connection.scalar(_LAST_WAITING, self._where(Phase.HALF, tag)) or 0.0
        return self._best(_WAITING, places, "waiting_since")

    def anything(self) -> tuple[RowMapping | None, str]:
        """Search without cursors as a last resort, and wait a moment for tasks that others have locked."""
        for _ in range(_TRIES):
            left = False
            for phase in (Phase.HALF, Phase.FRESH):
                for tag in self.tags:
                    seq = self._connection.scalar(_ANY, self._where(phase, tag))
                    if seq is None:
                        continue
                    left = True
                    still = (tasks.c.seq == seq) & (tasks.c.phase == int(phase))
                    if (row := lock_task(self._connection, still)) is not None:
                        return row, "half" if phase == Phase.HALF else "priority"
            if not left:
                break
        return None, ""


def _lease(
    connection: Connection,
    context: QueueContext,
    me: RowMapping,
    task: StoredRow,
    arm: str,
    cursors: dict[str, float],
    now: float,
) -> Presentation:
    answers = members(connection, task["item_id"])
    row = {
        "id": "l-" + secrets.token_urlsafe(16),
        "person": me["id"],
        "task": task["seq"],
        "state": "live",
        "arm": arm,
        "number": me["taken"] + 1,
        "shown": mapping.dumps(shuffled([id for id, _, _ in answers], context.seed, me["id"], task["item_id"])),
        "words": sum(len(text.split()) for _, text, _ in answers),
        "started_at": now,
        "expires_at": now + context.lease_s,
        "given_at": None,
        "duration_s": None,
        "ranking_id": None,
        "body": None,
        "reason": None,
        "returned": None,
        "returned_by": None,
        "returned_at": None,
        "reopened": False,
        "surplus": False,
    }
    connection.execute(_NEW_LEASE, row)
    since = now if task["waiting_since"] is None else task["waiting_since"]
    change_task(connection, task, live=task["live"] + 1, waiting_since=since, arm=task["arm"] or arm)
    gold = me["gold_taken"] + (arm == "gold")
    change_person(connection, me, taken=me["taken"] + 1, gold_taken=gold, cursors=mapping.dumps(cursors))
    return present(connection, context, row, answers)
