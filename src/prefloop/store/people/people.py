"""`People` manages invitations, sessions, API tokens, roles, groups, exclusion, deletion and the audit log."""

from __future__ import annotations

import builtins
import json
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any, get_args

from sqlalchemy import Connection, bindparam, delete, exists, insert, or_, select, update

from prefloop.errors import ConflictError, DataError, ForbiddenError
from prefloop.store.log import to_line
from prefloop.store.people import rows
from prefloop.store.people.alike import look_alike
from prefloop.store.people.types import Account, ApiToken, AuditRow, Invite, Person, Role, Scope
from prefloop.store.queue.fill import keep_setting
from prefloop.store.queue.read import setting
from prefloop.store.queue.rows import count, note
from prefloop.store.records import ModelRow
from prefloop.store.schema import audit, invites, people, sessions
from prefloop.store.store import Store

IDLE_S = 12 * 3600.0
LONGEST_SESSION_S = 14 * 86400.0
_SEEN_EVERY_S = 60.0  # A session's last sign of life is written at most this often.
_MANAGERS = ("owner", "reviewer")


class People:
    """Manages the accounts of a store.

    `by` is the id of the person who acts; None is the command line, which may do everything. Tokens are 256 random
    bits. They are given out once, and only their SHA-256 is stored. Passwords are hashed by the caller. Raises
    ForbiddenError if `by` may not act, if the person does not exist, or if the last owner would go.
    """

    def __init__(self, store: Store, clock: Callable[[], float] = time.time) -> None:
        self._database, self._clock = store.database, clock

    # -- invitations ------------------------------------------------------------------------------------------------

    def owner_link(self) -> str | None:
        """Return a new one-time token for the owner's account, while there is no owner. It replaces an earlier one."""
        with self._database.work(alone=True) as connection:
            if connection.scalar(select(exists().where(people.c.role == "owner", people.c.name.is_not(None)))):
                return None
            connection.execute(delete(invites).where(invites.c.role == "owner", invites.c.created_by.is_(None)))
            return self._invite(connection, None, "owner", (), 7)

    def invite(self, by: str | None, role: Role, groups: Sequence[str] = (), days: float = 7) -> str:
        """Return a one-time token. Owners may invite anybody, and reviewers may invite annotators."""
        if role not in get_args(Role):
            raise DataError(f"there is no role {role!r}. Roles: {', '.join(get_args(Role))}")
        with self._database.work(alone=True) as connection:
            rows.may(connection, by, *(_MANAGERS if role == "annotator" else ("owner",)))
            return self._invite(connection, by, role, groups, days)

    def _invite(self, connection: Connection, by: str | None, role: Role, groups: Sequence[str], days: float) -> str:
        token, now, id = rows.new_token(), self._clock(), "i-" + secrets.token_hex(6)
        invitation = {
            "id": id,
            "token_hash": rows.token_hash(token),
            "role": role,
            "groups": rows.check_groups(groups),
            "created_by": by,
            "created_at": now,
            "expires_at": now + days * 86400,
        }
        connection.execute(insert(invites), invitation)
        note(connection, now, by, "invite", id, after={"role": role, "groups": invitation["groups"]})
        return token

    def invites(self) -> list[Invite]:
        """Return the invitations that are not used, expired or withdrawn."""
        query = select(invites).where(invites.c.expires_at > self._clock()).order_by(invites.c.seq)
        with self._database.read() as connection:
            return [_invite(row) for row in connection.execute(query).mappings()]

    def withdraw(self, by: str | None, invite: str) -> None:
        """Make an invitation invalid, by its id."""
        with self._database.work(alone=True) as connection:
            rows.may(connection, by, *_MANAGERS)
            role = connection.scalar(select(invites.c.role).where(invites.c.id == invite))
            if role is None:
                return
            if role != "annotator":
                rows.may(connection, by, "owner")
            connection.execute(delete(invites).where(invites.c.id == invite))
            note(connection, self._clock(), by, "withdraw", invite)

    def peek(self, token: str) -> Invite | None:
        """Return the invitation of a token; None if it is unknown, used or expired."""
        works = (invites.c.token_hash == rows.token_hash(token)) & (invites.c.expires_at > self._clock())
        with self._database.read() as connection:
            row = connection.execute(select(invites).where(works)).mappings().first()
        return None if row is None else _invite(row)

    def accept(self, token: str, name: str, password_hash: str) -> Person:
        """Use an invitation.

        Raises ForbiddenError for a bad token, ConflictError for a taken name, and DataError for an unusable name (1 to
        64 visible characters).
        """
        login = rows.login_of(name)
        with self._database.work(alone=True) as connection:
            now = self._clock()
            works = (invites.c.token_hash == rows.token_hash(token)) & (invites.c.expires_at > now)
            row = connection.execute(select(invites).where(works)).mappings().first()
            if row is None:
                raise ForbiddenError("this invitation is unknown, used or has run out. Ask for a new one.")
            if connection.scalar(select(exists().where(people.c.login == login))):
                raise ConflictError("this name is taken; choose another one")
            others = connection.scalars(select(people.c.name).where(people.c.name.is_not(None)))
            if any(look_alike(name, other) for other in others):
                raise ConflictError("this name looks like that of somebody else; choose another one")
            shown = " ".join(name.split())
            id = rows.new_person(connection, now, row["role"], row["groups"], name=shown, password=password_hash)
            connection.execute(delete(invites).where(invites.c.seq == row["seq"]))
            made = rows.hold(connection, id)
            note(connection, now, id, "accept", row["id"], after=rows.state_of(made))
            return rows.to_person(made)

    def by_login(self, name: str) -> Account | None:
        """Return the account of a name, ignoring case. Disabled accounts are found too (see `person.disabled`)."""
        try:
            login = rows.login_of(name)
        except DataError:
            return None
        with self._database.read() as connection:
            row = connection.execute(select(people).where(people.c.login == login)).mappings().first()
        return None if row is None else Account(rows.to_person(row), row["password"])

    def set_password(self, person: str, password_hash: str, *, keep_sessions: bool = False) -> None:
        """Replace the hash and end the sessions of the person, unless the password is only hashed again."""
        with self._database.work() as connection:
            row = rows.hold(connection, person)
            connection.execute(update(people).where(people.c.seq == row["seq"]).values(password=password_hash))
            if not keep_sessions:
                ended = (sessions.c.person == person) & (sessions.c.kind == "session")
                connection.execute(delete(sessions).where(ended))
                note(connection, self._clock(), person, "password", person)

    # -- sessions and tokens -----------------------------------------------------------------------------------------

    def open_session(self, person: str, replaces: str | None = None) -> str:
        """Return a new token for each login. `replaces` is the previous token, which becomes invalid."""
        with self._database.work() as connection:
            if rows.hold(connection, person)["disabled"]:
                raise ForbiddenError("this account is disabled. The owner can enable it again.")
            now = self._clock()
            stale = or_(sessions.c.seen_at <= now - IDLE_S, sessions.c.created_at <= now - LONGEST_SESSION_S)
            connection.execute(delete(sessions).where(sessions.c.kind == "session", stale))
            if replaces is not None:
                connection.execute(delete(sessions).where(_browser(replaces)))
            return _open(connection, now, "session", person)

    def session(self, token: str) -> Person | None:
        """Return the person of a session; None after 12 h without a call, after 14 days, or if they are disabled."""
        now = self._clock()
        with self._database.read() as connection:
            row = connection.execute(_SESSION, {"token": rows.token_hash(token)}).mappings().first()
        if row is None or row["disabled"]:
            return None
        if now - row["seen_at"] >= IDLE_S or now - row["since"] >= LONGEST_SESSION_S:
            return None
        if now - row["seen_at"] >= _SEEN_EVERY_S:
            with self._database.work() as connection:
                connection.execute(update(sessions).where(sessions.c.seq == row["at"]).values(seen_at=now))
        return rows.to_person(row)

    def close_session(self, token: str) -> None:
        """Log out."""
        with self._database.work() as connection:
            connection.execute(delete(sessions).where(_browser(token)))

    def browsers(self, person: str) -> int:
        """Return in how many browsers a person is signed in."""
        now = self._clock()
        live = (sessions.c.seen_at > now - IDLE_S, sessions.c.created_at > now - LONGEST_SESSION_S)
        with self._database.read() as connection:
            return count(connection, sessions, sessions.c.person == person, sessions.c.kind == "session", *live)

    def revoke_all(self, by: str | None, person: str) -> int:
        """End every session and API token of a person; return how many. Allowed for oneself, or for owners."""
        with self._database.work() as connection:
            if by != person:
                rows.may(connection, by, "owner")
            rows.hold(connection, person)
            ended = connection.execute(delete(sessions).where(sessions.c.person == person)).rowcount
            note(connection, self._clock(), by, "revoke all", person)
            return ended

    def create_token(self, by: str | None, label: str, scope: Scope) -> str:
        """Return a new token for programs: "read" pulls rankings, "write" may also add items. Owners only."""
        if scope not in get_args(Scope) or not label.strip() or len(label) > rows.LONGEST_NAME or "\0" in label:
            raise DataError(f"give a token a label of 1 to {rows.LONGEST_NAME} characters, and read or write")
        with self._database.work() as connection:
            rows.may(connection, by, "owner")
            now = self._clock()
            token = _open(connection, now, "api", by, label=label, scope=scope)
            note(connection, now, by, "token", label if by is None else by, after=scope)
            return token

    def api_token(self, token: str) -> ApiToken | None:
        """Return what a token allows; None if it is unknown or revoked, or if its owner is no longer an owner."""
        now = self._clock()
        with self._database.read() as connection:
            query = _api().where(sessions.c.token_hash == rows.token_hash(token))
            row = connection.execute(query).mappings().first()
        if row is None:
            return None
        if now - row["seen_at"] >= _SEEN_EVERY_S:
            with self._database.work() as connection:
                connection.execute(update(sessions).where(sessions.c.seq == row["seq"]).values(seen_at=now))
        return _api_token(row)

    def api_tokens(self) -> builtins.list[ApiToken]:
        """Return Valid tokens, oldest first."""
        with self._database.read() as connection:
            return [_api_token(row) for row in connection.execute(_api().order_by(sessions.c.seq)).mappings()]

    def revoke_token(self, by: str | None, id: str) -> None:
        """Make an API token invalid, by its id."""
        with self._database.work() as connection:
            rows.may(connection, by, "owner")
            connection.execute(delete(sessions).where(sessions.c.id == id, sessions.c.kind == "api"))
            note(connection, self._clock(), by, "revoke token", id)

    # -- the team ----------------------------------------------------------------------------------------------------

    def list(self) -> builtins.list[Person]:
        """Return everybody, oldest first. Deleted people whose rankings were kept have no name."""
        with self._database.read() as connection:
            return [rows.to_person(row) for row in connection.execute(select(people).order_by(people.c.seq)).mappings()]

    def person(self, id: str) -> Person:
        """Return a person. Raises ForbiddenError if there is none."""
        with self._database.read() as connection:
            row = connection.execute(select(people).where(people.c.id == id)).mappings().first()
        if row is None:
            raise ForbiddenError(f"there is nobody with the id {id!r}")
        return rows.to_person(row)

    def set_role(self, by: str | None, person: str, role: Role) -> None:
        """Change a role. Owners only. API tokens of somebody who is no longer an owner become invalid."""
        if role not in get_args(Role):
            raise DataError(f"there is no role {role!r}. Roles: {', '.join(get_args(Role))}")
        self._change(by, person, "role", ("owner",), role=role)

    def set_groups(self, by: str | None, person: str, groups: Sequence[str]) -> None:
        """Set which tagged items this person gets beside the untagged ones. Owners and reviewers."""
        self._change(by, person, "groups", _MANAGERS, groups=rows.check_groups(groups))

    def set_limit(self, by: str | None, person: str, limit: int | None) -> None:
        """Set how many items this person may rank; None means `[annotate] limit`. Owners and reviewers."""
        if limit is not None and limit < 0:
            raise DataError("a limit is a number of items, 0 or more")
        self._change(by, person, "limit", _MANAGERS, most=limit)

    def disable(self, by: str | None, person: str, disabled: bool = True) -> None:
        """Lock somebody out, or in again. Sessions end, rankings stay. Owners only."""
        self._change(by, person, "disable" if disabled else "enable", ("owner",), disabled=disabled)

    def exclude(self, by: str | None, person: str, reason: str) -> None:
        """Leave a person's rankings, past and future, out of training. They are kept and marked.

        The person gets no more work, and others get the items, as many as are wanted without these rankings.
        """
        if not reason.strip() or len(reason) > 1000 or "\0" in reason:
            raise DataError("say why, in at most 1000 characters")
        self._change(by, person, "exclude", _MANAGERS, rows.give_up_places, excluded=reason, excluded_by=by)

    def include(self, by: str | None, person: str) -> None:
        """Undo `exclude`, except that places that others got in the meantime stay theirs."""
        self._change(by, person, "include", _MANAGERS, excluded=None, excluded_by=None)

    def _change(
        self,
        by: str | None,
        person: str,
        what: str,
        roles: Sequence[str],
        then: Callable[[Connection, str, float], None] | None = None,
        **values: Any,
    ) -> None:
        with self._database.work(alone=True) as connection:
            rows.may(connection, by, *roles)
            row = rows.hold(connection, person)
            if row["role"] == "owner":
                rows.may(connection, by, "owner")
            if values.get("disabled") or values.get("role", "owner") != "owner":
                rows.keep_an_owner(connection, row)
            connection.execute(update(people).where(people.c.seq == row["seq"]).values(values))
            if values.get("disabled"):
                connection.execute(delete(sessions).where(sessions.c.person == person))
            now = self._clock()
            if then is not None:
                then(connection, person, now)
            before, after = rows.state_of(row), rows.state_of(rows.hold(connection, person))
            note(connection, now, by, what, person, before, after)

    def models_of(self, person: str) -> builtins.list[ModelRow]:
        """Return the models trained on any ranking of this person, oldest first."""
        with self._database.read() as connection:
            return rows.models_of(connection, person)

    def delete(self, by: str | None, person: str, *, keep_rankings: bool) -> builtins.list[ModelRow]:
        """Delete a person's name, comments, drafts and history; return the models that learnt from their rankings.

        keep_rankings: keep the rankings under a new random id; otherwise they are deleted and their items opened again
        Owners only. The caller is responsible for copies outside the store (exports, backups).
        """
        with self._database.work(alone=True) as connection:
            rows.may(connection, by, "owner")
            if self._database.sqlite:
                # SQLite overwrites freed pages, so that no traces stay.
                connection.exec_driver_sql("PRAGMA secure_delete = ON")
            row = rows.hold(connection, person)
            rows.keep_an_owner(connection, row)
            learnt, now = rows.models_of(connection, person), self._clock()
            if keep_rankings:
                stays = rows.new_person(connection, now, "annotator", "[]", like=row)
                rows.rename_rankings(connection, person, stays)
            else:
                rows.remove_rankings(connection, person, now)
            rows.forget(connection, person, now)
            connection.execute(delete(people).where(people.c.seq == row["seq"]))
            note(connection, now, by if by != person else None, "delete", person, rows.state_of(row))
            return learnt

    # -- the log -----------------------------------------------------------------------------------------------------

    def record(self, who: str | None, what: str, object: str, before: object = None, after: object = None) -> None:
        """Add one line to the audit log. Of `before` and `after` (JSON) only hashes are kept.

        It must hold no names or texts, because a line cannot be deleted.
        """
        with self._database.work() as connection:
            note(connection, self._clock(), who, what, object, before, after)

    def audit(self, limit: int = 100, after: int = 0) -> builtins.list[AuditRow]:
        """Return lines with numbers above `after`, oldest first. Nobody can change or delete a line."""
        query = select(audit).where(audit.c.seq > after).order_by(audit.c.seq).limit(limit)
        with self._database.read() as connection:
            return [to_line(row) for row in connection.execute(query)]

    def secret(self, name: str) -> str:
        """Return a secret of this project (64 hex digits), made on first use. Webhooks are signed with it."""
        with self._database.write() as connection:
            known: str | None = setting(connection, f"secret:{name}", None)
            if known is None:
                known = secrets.token_hex(32)
                keep_setting(connection, f"secret:{name}", known)
            return known


def _invite(row: Any) -> Invite:
    groups = tuple(json.loads(row["groups"]))
    return Invite(row["id"], row["role"], groups, row["created_by"], row["created_at"], row["expires_at"])


_SESSION = (  # Every call needs this statement, so it is made once.
    select(people, sessions.c.seq.label("at"), sessions.c.created_at.label("since"), sessions.c.seen_at)
    .join(sessions, sessions.c.person == people.c.id)
    .where(sessions.c.token_hash == bindparam("token"), sessions.c.kind == "session")
)


def _browser(token: str) -> Any:
    return (sessions.c.token_hash == rows.token_hash(token)) & (sessions.c.kind == "session")


def _open(connection: Connection, now: float, kind: str, person: str | None, **values: str) -> str:
    token = rows.new_token()
    row = {
        "id": "s-" + secrets.token_hex(6),
        "token_hash": rows.token_hash(token),
        "kind": kind,
        "person": person,
        "created_at": now,
        "seen_at": now if kind == "session" else 0.0,
    }
    connection.execute(insert(sessions), row | values)
    return token


def _api() -> Any:
    """Select the API tokens of the command line, and of people who are owners and enabled now."""
    by_owner = (people.c.role == "owner") & ~people.c.disabled
    joined = select(sessions).outerjoin(people, people.c.id == sessions.c.person)
    return joined.where(sessions.c.kind == "api", or_(sessions.c.person.is_(None), by_owner))


def _api_token(row: Any) -> ApiToken:
    used = row["seen_at"] or None
    return ApiToken(row["id"], row["label"], row["scope"], row["person"], row["created_at"], used)
