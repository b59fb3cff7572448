"""Takes an answer. One transaction closes the lease, counts the place and appends the ranking, or nothing happens."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, insert, select, update

from prefloop.errors import AnswerError, ConflictError, LeaseError
from prefloop.labels.answer import SKIP_REASONS, Answer, check, marks, to_ranking
from prefloop.store import mapping
from prefloop.store.queue.lease import renew, revive
from prefloop.store.queue.rows import (
    Phase,
    QueueContext,
    StoredRow,
    able_person,
    change_lease,
    change_person,
    change_task,
    count,
    has_place,
    iso,
    lock_lease,
    lock_person,
    own_lease,
    phase_of,
    present,
)
from prefloop.store.queue.rules import LOOK_EVERY_S, in_force_since
from prefloop.store.queue.types import Presentation, Receipt
from prefloop.store.schema import drafts, leases, rankings, submissions
from prefloop.store.write import check_ranking
from prefloop.types import Json, digest

EDITABLE = 10  # So many answers can still be changed.
LARGEST_DRAFT = 100_000  # in characters of JSON
_SETTLED = {"returned": None, "returned_by": None, "returned_at": None}
_UUID = re.compile(r"[A-Za-z0-9-]{8,64}")

_SENT = select(submissions).where(submissions.c.person == bindparam("person"), submissions.c.uuid == bindparam("uuid"))
_SEND, _APPEND, _NEW_DRAFT = insert(submissions), insert(rankings), insert(drafts)
_KEEP_DRAFT = update(drafts).where(drafts.c.lease == bindparam("of"))
_DROP_DRAFT = delete(drafts).where(drafts.c.lease == bindparam("of"))
_GIVEN_BEFORE = select(func.count()).where(
    rankings.c.item_id == bindparam("item"),
    rankings.c.criterion == bindparam("criterion"),
    rankings.c.annotator == bindparam("annotator"),
)


def submit(context: QueueContext, person: str, lease: str, uuid: str, answer: Answer) -> Receipt:
    """See `Queue.submit`."""
    body = digest("submit", lease, answer.body)

    def write(connection: Connection, me: StoredRow) -> Receipt:
        task, held = lock_lease(connection, person, lease)
        shown = json.loads(held["shown"])
        admit(connection, context, answer, len(shown), held["started_at"])
        if held["state"] == "done" and not held["reopened"]:
            return _second(connection, held, answer)
        return _rank(connection, context, me, task, held, answer, shown)

    return once(context, person, uuid, body, write)


def admit(connection: Connection, context: QueueContext, answer: Answer, cards: int, since: float) -> None:
    """Raise AnswerError unless the answer follows the current rules, or any that were in force since `since`.

    Somebody who had the item on the screen while an owner changed the rules was asked by the earlier ones.
    """
    try:
        check(answer, cards, context.settings)
    except AnswerError:
        for earlier in in_force_since(connection, context.file, since - 2 * LOOK_EVERY_S):
            with suppress(AnswerError):
                check(answer, cards, earlier)
                return
        raise


def once(
    context: QueueContext, person: str, uuid: str, body: str, write: Callable[[Connection, StoredRow], Receipt]
) -> Receipt:
    """Run `write(connection, person row)`, unless this person sent the uuid before: then return that receipt.

    Raises ConflictError for the same uuid with another body. The person's row is locked, so that a repetition that
    overtakes the first try waits for it.
    """
    if not _UUID.fullmatch(uuid):
        raise AnswerError("the uuid of a submit must be 8 to 64 letters, digits and dashes, new for each answer")
    with context.database.work() as connection:
        me = lock_person(connection, person)
        known = connection.execute(_SENT, {"person": person, "uuid": uuid}).mappings().first()
        if known is not None:
            if known["body"] != body:
                raise ConflictError(
                    "this was sent before with another answer; the first one is kept. Open it from your history to "
                    "change it."
                )
            return Receipt(**json.loads(known["receipt"]))
        receipt = write(connection, me)
        sent = {"person": person, "uuid": uuid, "body": body, "receipt": mapping.dumps(asdict(receipt))}
        connection.execute(_SEND, sent)
        return receipt


def _second(connection: Connection, lease: StoredRow, answer: Answer) -> Receipt:
    """Take another submit for an answered lease, for example from a second tab.

    It is accepted if the answer is the same.
    """
    if lease["body"] == answer.body:
        return Receipt(lease["id"], "surplus" if lease["surplus"] else "ranked", lease["given_at"], lease["ranking_id"])
    raise ConflictError(
        "you have ranked this already, perhaps in another tab; that answer is kept. Open it from your history to "
        "change it."
    )


def _rank(
    connection: Connection,
    context: QueueContext,
    me: StoredRow,
    task: StoredRow,
    lease: StoredRow,
    answer: Answer,
    shown: Sequence[str],
) -> Receipt:
    now = context.clock()
    again = lease["state"] == "done"
    place = lease["state"] == "live" or has_place(task)
    counted = not lease["surplus"] if again else place and me["excluded"] is None
    marks: dict[str, Any] = {"arm": task["arm"]}
    if not counted:
        marks["surplus"] = True
    context.database.in_order(connection)
    ranking = append(connection, task, me["id"], answer, shown, now, marks, lease["ranking_id"])
    change_lease(
        connection,
        lease,
        state="done",
        given_at=lease["given_at"] if again else now,
        duration_s=answer.duration_s,
        ranking_id=ranking,
        body=answer.body,
        reason=None,
        marked=None,
        **_SETTLED,
        reopened=False,
        surplus=not counted,
    )
    if not again:
        held = lease["state"] == "live"
        free = {"waiting_since": now} if held and not counted else {}
        change_task(connection, task, live=task["live"] - held, done=task["done"] + counted, **free)
        took_back = lease["state"] == "skipped"
        tally = {"done": me["done"] + 1, "skipped": me["skipped"] - took_back}
        change_person(connection, me, **tally)
    connection.execute(_DROP_DRAFT, {"of": lease["id"]})
    return Receipt(lease["id"], "revised" if again else "ranked" if counted else "surplus", now, ranking)


def append(
    connection: Connection,
    task: StoredRow,
    annotator: str,
    answer: Answer,
    shown: Sequence[str],
    now: float,
    marks: Json,
    supersedes: str | None,
) -> str:
    """Write the ranking and return its id. `in_order` must have been called before."""
    mine = {"item": task["item_id"], "criterion": task["criterion"], "annotator": annotator}
    ranking = to_ranking(
        answer,
        shown,
        marks,
        item_id=task["item_id"],
        annotator=annotator,
        criterion=task["criterion"],
        created_at=iso(now),
        supersedes=supersedes,
        ordinal=connection.scalar(_GIVEN_BEFORE, mine) or 0,
    )
    check_ranking(ranking, shown)
    connection.execute(_APPEND, mapping.ranking_row(ranking))
    return ranking.id


def skip(context: QueueContext, person: str, lease: str, uuid: str, reason: str, said: Answer | None) -> Receipt:
    """See `Queue.skip`."""
    if reason not in SKIP_REASONS:
        raise AnswerError(f"{reason[:40]!r} is no reason to skip. Reasons: {', '.join(SKIP_REASONS)}")

    def write(connection: Connection, me: StoredRow) -> Receipt:
        now = context.clock()
        task, held = lock_lease(connection, person, lease)
        if held["state"] == "done":
            if not held["reopened"]:
                raise ConflictError("you have ranked this already; that answer is kept")
            change_lease(connection, held, reopened=False, **_SETTLED)  # The answer stands.
        elif held["state"] != "skipped":
            kept = marks(said, json.loads(held["shown"])) if said else {}
            marked = mapping.dumps(kept) if kept else None
            change_lease(connection, held, state="skipped", given_at=now, reason=reason, marked=marked)
            freed = {"live": task["live"] - 1, "waiting_since": now} if held["state"] == "live" else {}
            change_task(connection, task, skips=task["skips"] + 1, **freed)
            change_person(connection, me, skipped=me["skipped"] + 1)
        return Receipt(lease, "skipped", now)  # The draft is kept for an undo of the skip.

    return once(context, person, uuid, digest("skip", lease, reason, *([said.body] if said else [])), write)


def heartbeat(context: QueueContext, person: str, lease: str) -> float:
    """See `Queue.heartbeat`."""
    now = context.clock()
    with context.database.work() as connection:
        able_person(connection, person)
        held = own_lease(connection, person, lease)
        if held["reopened"]:
            return now + context.lease_s  # The lease holds no place.
        until: float = min(now + context.lease_s, held["started_at"] + context.cap_s)
        if until <= now:
            raise LeaseError(
                f"you have had this item for {context.cap_s / 3600:g} h, so others may get it. What you submit is kept."
            )
        if held["state"] == "live":
            mine = update(leases).where(leases.c.seq == held["seq"], leases.c.state == "live")
            if connection.execute(mine.values(expires_at=until)).rowcount:
                return until
        task, held = lock_lease(connection, person, lease)
        back = revive(connection, context, task, held, now)
        if back is None:
            raise LeaseError("this item is no longer held for you. If you submit it, your answer is kept all the same.")
        return float(change_lease(connection, back, started_at=held["started_at"], expires_at=until)["expires_at"])


def draft(context: QueueContext, person: str, lease: str, state: Json) -> None:
    """See `Queue.draft`."""
    text = mapping.dumps(state)
    if len(text) > LARGEST_DRAFT:
        raise AnswerError(f"the draft has {len(text)} characters. The most that is kept is {LARGEST_DRAFT}.")
    if "\\u0000" in text:
        raise AnswerError("the draft holds a NUL character, which cannot be stored")
    with context.database.work() as connection:
        able_person(connection, person)
        _, held = lock_lease(connection, person, lease)
        if held["state"] not in ("live", "expired") and not held["reopened"]:
            raise LeaseError("this item is answered. Open it from your history to change it.")
        values = {"state": text, "kept_at": context.clock()}
        if not connection.execute(_KEEP_DRAFT, values | {"of": lease}).rowcount:
            connection.execute(_NEW_DRAFT, values | {"lease": lease})


def reopen(context: QueueContext, person: str, lease: str) -> Presentation:
    """See `Queue.reopen`."""
    with context.database.work() as connection:
        me = lock_person(connection, person)
        task, held = lock_lease(connection, person, lease)
        if phase_of(task) == Phase.CLOSED:
            raise LeaseError("a reviewer has taken this item out; it cannot be changed any more")
        if held["state"] == "live":
            after: StoredRow | None = renew(connection, context, held, context.clock())
        elif held["state"] == "expired":
            after = revive(connection, context, task, held, context.clock())
        elif held["returned"] is None and not held["reopened"] and not _recent(connection, held):
            raise LeaseError(f"only your last {EDITABLE} answers can be changed")
        elif held["state"] == "done":
            after = change_lease(connection, held, reopened=True)
        else:
            after = _unskip(connection, context, me, task, held)
        return present(connection, context, after or held)


def _recent(connection: Connection, lease: StoredRow) -> bool:
    later = (leases.c.given_at > lease["given_at"]) | (
        (leases.c.given_at == lease["given_at"]) & (leases.c.seq > lease["seq"])
    )
    return count(connection, leases, leases.c.person == lease["person"], later) < EDITABLE


def _unskip(
    connection: Connection, context: QueueContext, me: StoredRow, task: StoredRow, lease: StoredRow
) -> StoredRow:
    """Undo a skip. The answer gets a place if one is free; otherwise it is kept as a late answer."""
    change_person(connection, me, skipped=me["skipped"] - 1)
    task = change_task(connection, task, skips=task["skips"] - 1)
    back = change_lease(connection, lease, state="expired", given_at=None, reason=None, marked=None)
    return revive(connection, context, task, back, context.clock()) or back
