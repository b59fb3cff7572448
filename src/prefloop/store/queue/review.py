"""Serves reviewers: they compare rankings, adjudicate, return answers, and discard items."""

from __future__ import annotations

import json
from itertools import chain
from typing import Any, get_args

from sqlalchemy import ColumnElement, Connection, Select, and_, case, func, or_, select, true, update

from prefloop.errors import AnswerError, DataError
from prefloop.labels.answer import Answer
from prefloop.store.queue.rows import (
    Phase,
    QueueContext,
    StoredRow,
    able_person,
    change_lease,
    change_task,
    count,
    excerpt,
    holding,
    note,
    plain,
    reviewer,
    task_of_item,
)
from prefloop.store.queue.submit import admit, append, once
from prefloop.store.queue.types import Browse, GivenRanking, ItemView, Passed, Receipt, TaskRow, TaskState
from prefloop.store.read import effective, items_by_id
from prefloop.store.schema import completions, items, leases, people, prompts, rankings, tasks
from prefloop.types import digest

_NARROW: dict[Browse, ColumnElement[bool]] = {
    "all": true(),
    "answered": and_(tasks.c.done > 0, tasks.c.phase != int(Phase.CLOSED)),
    # These items were ranked or skipped.
    "given": and_(or_(tasks.c.done > 0, tasks.c.skips > 0), tasks.c.phase != int(Phase.CLOSED)),
    "several": and_(tasks.c.done > 1, tasks.c.phase != int(Phase.CLOSED)),
    "skipped": and_(tasks.c.skips > 0, tasks.c.phase != int(Phase.CLOSED)),
    "gold": tasks.c.phase == int(Phase.GOLD),
    "discarded": tasks.c.phase == int(Phase.CLOSED),
}


def browse(context: QueueContext, kind: Browse, after: int, limit: int) -> list[TaskRow]:
    """See `Queue.browse`."""
    if kind not in get_args(Browse):
        raise DataError(f"there is no list {kind!r}. Lists: {', '.join(get_args(Browse))}")
    here = (tasks.c.criterion == context.settings.criterion, tasks.c.seq > after, _NARROW[kind])
    # The page is read from an index alone.
    page = select(tasks.c.seq).where(*here).order_by(tasks.c.seq).limit(limit).subquery()
    held = select(func.count()).where(leases.c.task == tasks.c.seq, *holding(context.clock()))
    query = (
        select(tasks, prompts.c.content, held.scalar_subquery().label("held"))
        .join(page, page.c.seq == tasks.c.seq)
        .join(items, items.c.id == tasks.c.item_id)
        .join(prompts, prompts.c.id == items.c.prompt_id)
        .order_by(tasks.c.seq)
    )
    with context.database.read() as connection:
        rows = connection.execute(query).mappings().all()
        flags = _flags(connection, tasks.c.seq.in_([row["seq"] for row in rows if row["skips"]]))
    return [
        TaskRow(
            number=row["seq"],
            item=row["item_id"],
            excerpt=excerpt(row["content"]),
            wanted=row["wanted"],
            done=row["done"],
            held=row["held"],
            skips=row["skips"],
            state=_state(row),
            tag=row["tag"],
            flags=flags.get(row["item_id"], ()),
        )
        for row in rows
    ]


def skip_flags(context: QueueContext) -> dict[str, tuple[str, ...]]:
    """See `Queue.skip_flags`."""
    with context.database.read() as connection:
        return _flags(connection, tasks.c.criterion == context.settings.criterion, tasks.c.phase != int(Phase.CLOSED))


def _flags(connection: Connection, *here: ColumnElement[bool]) -> dict[str, tuple[str, ...]]:
    """Return, for each item, the flags that were set before a skip."""
    query = select(tasks.c.item_id, leases.c.marked).join(leases, leases.c.task == tasks.c.seq)
    marked = query.where(leases.c.marked.is_not(None), *here).order_by(leases.c.seq)
    found: dict[str, tuple[str, ...]] = {}
    for row in connection.execute(marked):
        given = chain.from_iterable(json.loads(row.marked).get("flags", {}).values())
        found[row.item_id] = (*found.get(row.item_id, ()), *given)
    return {item: flags for item, flags in found.items() if flags}


def _state(row: StoredRow) -> TaskState:
    """Return the state of a task, derived from its counts so that both always agree."""
    if row["discarded"] is not None:
        return "discarded"
    if row["gold"] is not None:
        return "gold"
    if row["done"] >= row["wanted"]:
        return "ranked"
    if row["held"]:
        return "being ranked"
    return "partly ranked" if row["done"] else "open"


def tallies(context: QueueContext) -> dict[Browse, int]:
    """See `Queue.tallies`."""
    sums = [func.coalesce(func.sum(case((chosen, 1), else_=0)), 0) for chosen in _NARROW.values()]
    with context.database.read() as connection:
        row = connection.execute(select(*sums).where(tasks.c.criterion == context.settings.criterion)).one()
    return {kind: int(number) for kind, number in zip(_NARROW, row, strict=True)}


def skipped_only(context: QueueContext) -> int:
    """See `Queue.skipped_only`."""
    here = (tasks.c.criterion == context.settings.criterion, tasks.c.skips > 0, tasks.c.done == 0)
    with context.database.read() as connection:
        return count(connection, tasks, *here, tasks.c.phase.not_in([Phase.GOLD, Phase.CLOSED]))


def view(context: QueueContext, item: str) -> ItemView:
    """See `Queue.view`."""
    criterion = context.settings.criterion
    with context.database.read() as connection:
        found = items_by_id(connection, [item]).get(item)
        here = and_(tasks.c.item_id == item, tasks.c.criterion == criterion)
        task = connection.execute(select(tasks).where(here)).mappings().first()
        if found is None or task is None:
            raise DataError(f"item {item} is not in the queue for {criterion!r}")
        held = (
            select(leases, people.c.name)
            .join(people, people.c.id == leases.c.person)
            .where(leases.c.task == task["seq"])
            .order_by(leases.c.seq)
        )
        rows = connection.execute(held).mappings().all()
        named = {row.id: row for row in connection.execute(_names(found.id, criterion))}
    lease_of = {row["ranking_id"]: row for row in rows if row["ranking_id"] is not None}
    said = tuple(
        GivenRanking(
            ranking=ranking,
            name=named[ranking.annotator].name if ranking.annotator in named else None,
            excluded=ranking.annotator in named and named[ranking.annotator].excluded is not None,
            surplus=bool(ranking.metadata.get("surplus")),
            adjudication=bool(ranking.metadata.get("adjudication")),
            returned=lease_of[ranking.id]["returned"] if ranking.id in lease_of else None,
        )
        for ranking in found.rankings
        if ranking.criterion == criterion
    )
    passed = tuple(_passed(row) for row in rows if row["state"] in ("live", "expired", "skipped"))
    return ItemView(
        item=found,
        criterion=criterion,
        said=said,
        passed=passed,
        wanted=task["wanted"],
        done=task["done"],
        tag=task["tag"],
        gold=None if task["gold"] is None else plain(json.loads(task["gold"])),
        discarded=task["discarded"],
        priority=task["priority"],
        arm=task["arm"],
    )


def _passed(row: StoredRow) -> Passed:
    marked = json.loads(row["marked"] or "{}")
    flags = {id: tuple(given) for id, given in marked.get("flags", {}).items()}
    at = row["given_at"] or row["started_at"]
    return Passed(row["person"], row["name"], row["state"], row["reason"], at, flags, marked.get("comment"))


def _names(item: str, criterion: str) -> Select[Any]:
    by = select(rankings.c.annotator).where(rankings.c.item_id == item, rankings.c.criterion == criterion)
    return select(people.c.id, people.c.name, people.c.excluded).where(people.c.id.in_(by))


def adjudicate(context: QueueContext, by: str, item: str, uuid: str, answer: Answer) -> Receipt:
    """See `Queue.adjudicate`."""

    def write(connection: Connection, me: StoredRow) -> Receipt:
        reviewer(connection, me["id"])
        now = context.clock()
        task = task_of_item(connection, context, item)
        members = select(completions.c.id).where(completions.c.item_id == item).order_by(completions.c.position)
        shown = list(connection.scalars(members))
        admit(connection, context, answer, len(shown), now - context.cap_s)
        context.database.in_order(connection)
        earlier = _earlier_word(connection, task, me["id"])
        marks = {"adjudication": True, "arm": task["arm"]}
        ranking = append(connection, task, me["id"], answer, shown, now, marks, earlier)
        note(connection, now, me["id"], "adjudicate", item, earlier, ranking)
        return Receipt(item, "adjudicated", now, ranking)

    return once(context, by, uuid, digest("adjudicate", item, answer.body), write)


def _earlier_word(connection: Connection, task: StoredRow, by: str) -> str | None:
    """Return the reviewer's adjudication that is in force, if any.

    What they ranked as an annotator does not matter here.
    """
    mine = select(rankings.c.id, rankings.c.metadata).where(
        rankings.c.item_id == task["item_id"],
        rankings.c.criterion == task["criterion"],
        rankings.c.annotator == by,
        effective(),
    )
    for row in connection.execute(mine.order_by(rankings.c.seq.desc())):
        if json.loads(row.metadata).get("adjudication"):
            return str(row.id)
    return None


def give_back(context: QueueContext, by: str, item: str, person: str, text: str) -> None:
    """See `Queue.give_back`."""
    if len(text) > 1000 or "\0" in text:
        raise AnswerError("a note to an annotator has at most 1000 characters")
    with context.database.work() as connection:
        reviewer(connection, by)
        able_person(connection, person)
        task = task_of_item(connection, context, item)
        theirs = (leases.c.task == task["seq"]) & (leases.c.person == person)
        lease = connection.execute(select(leases).where(theirs)).mappings().first()
        if lease is None or lease["state"] != "done":
            raise DataError(f"{person} has not ranked item {item}, so there is nothing to give back")
        now = context.clock()
        change_lease(connection, lease, returned=text, returned_by=by, returned_at=now)
        note(connection, now, by, "give back", f"{item} {person}")


def discard(context: QueueContext, by: str, item: str, reason: str) -> None:
    """See `Queue.discard`."""
    if not reason.strip() or len(reason) > 1000 or "\0" in reason:
        raise AnswerError("say why the item is taken out, in at most 1000 characters")
    with context.database.work() as connection:
        reviewer(connection, by)
        task = task_of_item(connection, context, item)
        if task["discarded"] is not None:
            return
        held = update(leases).where(leases.c.task == task["seq"], leases.c.state == "live")
        connection.execute(held.values(state="closed"))
        change_task(connection, task, live=0, discarded=reason, discarded_by=by)
        note(connection, context.clock(), by, "discard", item)


def restore(context: QueueContext, by: str, item: str) -> None:
    """See `Queue.restore`."""
    with context.database.work() as connection:
        reviewer(connection, by)
        task = task_of_item(connection, context, item)
        if task["discarded"] is None:
            return
        closed = update(leases).where(leases.c.task == task["seq"], leases.c.state == "closed")
        connection.execute(closed.values(state="expired"))
        waiting = None if task["waiting_since"] is None else context.clock()
        change_task(connection, task, discarded=None, discarded_by=None, waiting_since=waiting)
        note(connection, context.clock(), by, "restore", item)
