"""Reads and writes database rows of people: names, tokens, permissions, and what remains of a deleted person."""

from __future__ import annotations

import hashlib
import json
import secrets
import unicodedata
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, delete, func, insert, literal, select, update

from prefloop.errors import DataError, ForbiddenError
from prefloop.store import mapping
from prefloop.store.people.types import Person
from prefloop.store.queue.rows import change_task, count
from prefloop.store.records import ModelRow
from prefloop.store.schema import (
    drafts,
    invites,
    leases,
    models,
    people,
    rankings,
    removals,
    sessions,
    snapshot_members,
    submissions,
    tasks,
)

LONGEST_NAME = 64


def new_token() -> str:
    """Return 256 random bits that are safe in an address."""
    return secrets.token_urlsafe(32)


def token_hash(token: str) -> str:
    """Return what is stored of a token. A token has too many bits to be guessed, so a fast hash is enough."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def login_of(name: str) -> str:
    """Return the login of a name: names that differ only in case, width or white space share one. Raises DataError."""
    login = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
    if not 1 <= len(login) <= LONGEST_NAME or len(name) > LONGEST_NAME:
        raise DataError(f"a name has 1 to {LONGEST_NAME} characters")
    # These are control, format (bidi), surrogate and unassigned characters.
    if any(unicodedata.category(letter)[0] == "C" for letter in name):
        raise DataError("the name holds invisible characters; leave them out")
    return login


def check_groups(groups: Sequence[str]) -> str:
    """Return groups in the form in which they are stored. Raises DataError for unusable ones."""
    for group in groups:
        if not group.strip() or len(group) > LONGEST_NAME or "\0" in group:
            raise DataError(f"{group[:80]!r} is no group: give a name of 1 to {LONGEST_NAME} characters")
    return mapping.dumps(list(dict.fromkeys(groups)))


def to_person(row: RowMapping) -> Person:
    return Person(
        id=row["id"],
        name=row["name"],
        role=row["role"],
        groups=tuple(json.loads(row["groups"])),
        limit=row["most"],
        excluded=row["excluded"],
        disabled=row["disabled"],
        created_at=row["created_at"],
        done=row["done"],
        skipped=row["skipped"],
        guidelines=row["guidelines"],
    )


def state_of(row: RowMapping) -> dict[str, Any]:
    """Return what the audit log hashes. It holds nothing from which a name could be guessed."""
    state = {key: row[key] for key in ("role", "groups", "most", "disabled")}
    return state | {"excluded": row["excluded"] is not None}


def new_person(
    connection: Connection,
    now: float,
    role: str,
    groups: str,
    *,
    name: str | None = None,
    password: str | None = None,
    like: RowMapping | None = None,
) -> str:
    """Insert a person; return the new random id. `like`: a row whose numbers and exclusion to copy."""
    id = "p-" + secrets.token_hex(6)
    kept = ("excluded", "created_at", "taken", "gold_taken", "done", "skipped")
    row = {
        "id": id,
        "name": name,
        "login": None if name is None else login_of(name),
        "password": password,
        "role": role,
        "groups": groups,
        "most": None,
        "excluded": None,
        "excluded_by": None,
        "disabled": name is None,
        "created_at": now,
        "taken": 0,
        "gold_taken": 0,
        "done": 0,
        "skipped": 0,
        "cursors": "{}",
    }
    connection.execute(insert(people), row | ({} if like is None else {key: like[key] for key in kept}))
    return id


def hold(connection: Connection, id: str) -> RowMapping:
    """Lock a person's row and return it. Raises ForbiddenError for unknown and deleted people."""
    query = select(people).where(people.c.id == id, people.c.name.is_not(None)).with_for_update(key_share=True)
    row = connection.execute(query).mappings().first()
    if row is None:
        raise ForbiddenError(f"there is nobody with the id {id!r}")
    return row


def may(connection: Connection, by: str | None, *roles: str) -> None:
    """Raise ForbiddenError unless `by` is the command line (None) or an enabled person of one of the roles."""
    if by is None:
        return
    query = select(people.c.role).where(people.c.id == by, ~people.c.disabled, people.c.name.is_not(None))
    if connection.scalar(query) not in roles:
        raise ForbiddenError(f"only {' and '.join(f'{role}s' for role in roles)} may do that")


def owners(connection: Connection) -> int:
    """Return how many owners can log in. Callers work alone, so that two cannot resign at once."""
    return count(connection, people, people.c.role == "owner", ~people.c.disabled, people.c.name.is_not(None))


def keep_an_owner(connection: Connection, row: RowMapping) -> None:
    """Raise ForbiddenError if without `row` nobody could manage the team."""
    if row["role"] == "owner" and not row["disabled"] and owners(connection) < 2:
        raise ForbiddenError("this is the only owner. Make somebody else an owner first.")


# -- leaving -----------------------------------------------------------------------------------------------------------


def models_of(connection: Connection, person: str) -> list[ModelRow]:
    """Return the models whose snapshot holds any ranking of this person, superseded ones included."""
    theirs = (
        select(snapshot_members.c.snapshot_hash)
        .join(rankings, rankings.c.id == snapshot_members.c.member_id)
        .where(rankings.c.annotator == person)
    )
    query: Select[Any] = select(models).where(models.c.snapshot_hash.in_(theirs)).order_by(models.c.seq)
    return [mapping.to_model(row) for row in connection.execute(query).mappings()]


def forget(connection: Connection, person: str, now: float) -> None:
    """Delete everything of a person except the rankings and the row itself."""
    mine = select(leases.c.id).where(leases.c.person == person)
    connection.execute(delete(drafts).where(drafts.c.lease.in_(mine)))
    held = select(leases.c.task, func.count().label("n")).where(leases.c.person == person, leases.c.state == "live")
    for task, number in connection.execute(held.group_by(leases.c.task).order_by(leases.c.task)).all():
        row = connection.execute(select(tasks).where(tasks.c.seq == task).with_for_update()).mappings().one()
        change_task(connection, row, live=row["live"] - number, waiting_since=now)
    connection.execute(delete(leases).where(leases.c.person == person))
    connection.execute(delete(submissions).where(submissions.c.person == person))
    connection.execute(delete(sessions).where(sessions.c.person == person))
    connection.execute(update(invites).where(invites.c.created_by == person).values(created_by=None))
    gone = "(removed)"
    connection.execute(update(tasks).where(tasks.c.discarded_by == person).values(discarded=gone, discarded_by=None))
    connection.execute(update(leases).where(leases.c.returned_by == person).values(returned="", returned_by=None))
    connection.execute(update(people).where(people.c.excluded_by == person).values(excluded=gone, excluded_by=None))


def rename_rankings(connection: Connection, person: str, to: str) -> None:
    """Keep rankings without their author, and without the comments that only the author wrote."""
    connection.execute(update(rankings).where(rankings.c.annotator == person).values(annotator=to, comment=None))


def give_up_places(connection: Connection, person: str, now: float) -> None:
    """Stop counting this person's rankings, so that others get the places."""
    given = (leases.c.person == person, leases.c.state == "done", ~leases.c.surplus)
    for task in connection.scalars(select(leases.c.task).where(*given).order_by(leases.c.task)).all():
        row = connection.execute(select(tasks).where(tasks.c.seq == task).with_for_update()).mappings().one()
        change_task(connection, row, done=row["done"] - 1, waiting_since=now)
    connection.execute(update(leases).where(*given).values(surplus=True))


def remove_rankings(connection: Connection, person: str, now: float) -> None:
    """Delete rankings and give their places back.

    Their ids stay known, so that snapshots that name them are not taken for damaged.
    """
    give_up_places(connection, person, now)
    theirs = rankings.c.annotator == person
    gone = select(rankings.c.id, literal(now)).where(theirs)
    connection.execute(delete(removals).where(removals.c.member_id.in_(select(rankings.c.id).where(theirs))))
    connection.execute(insert(removals).from_select(["member_id", "removed_at"], gone))
    connection.execute(delete(rankings).where(theirs))
