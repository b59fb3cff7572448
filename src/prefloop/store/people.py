"""`People`: who may do what. Invitations, sessions, API tokens, roles, groups, exclusion, deletion, and the audit log."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from prefloop.store.people_types import Account, ApiToken, AuditRow, Invite, Person, Role, Scope
from prefloop.store.records import ModelRow
from prefloop.store.store import Store


class People:
    """`by` is the id of the person who acts, None for the command line (whoever can open the database may do all).

    Tokens are 256 random bits, given out once and kept as SHA-256 only. Passwords are hashed by the caller.
    Raises ForbiddenError where `by` may not, where there is no such person, and where the last owner would go.
    """

    def __init__(self, store: Store, clock: Callable[[], float] = time.time) -> None:
        self._store, self._clock = store, clock

    # -- coming in ---------------------------------------------------------------------------------------------------

    def owner_link(self) -> str | None:
        """A fresh one-time token for the owner's account, while there is no owner; it replaces an earlier one."""
        raise NotImplementedError

    def invite(self, by: str | None, role: Role, groups: Sequence[str] = (), days: float = 7) -> str:
        """A one-time token. Owners invite anybody, reviewers invite annotators."""
        raise NotImplementedError

    def invites(self) -> list[Invite]:
        """Those not used, not run out and not withdrawn."""
        raise NotImplementedError

    def withdraw(self, by: str | None, invite: str) -> None:
        """An invitation that should no longer work, by its id."""
        raise NotImplementedError

    def peek(self, token: str) -> Invite | None:
        """What a token would make of its bearer; None where it is unknown, used or run out."""
        raise NotImplementedError

    def accept(self, token: str, name: str, password_hash: str) -> Person:
        """Use an invitation. Raises ForbiddenError for a bad token, ConflictError for a taken name, DataError for an
        unusable one (1 to 64 visible characters)."""
        raise NotImplementedError

    def by_login(self, name: str) -> Account | None:
        """The account of a name, whatever its case; disabled ones too (look at `person.disabled`)."""
        raise NotImplementedError

    def set_password(self, person: str, password_hash: str, *, keep_sessions: bool = False) -> None:
        """Replace the hash; ends the person's sessions unless told otherwise (a rehash of the same password)."""
        raise NotImplementedError

    # -- sessions and tokens -----------------------------------------------------------------------------------------

    def open_session(self, person: str, replaces: str | None = None) -> str:
        """A new token at each login; `replaces` (the token of before) stops working."""
        raise NotImplementedError

    def session(self, token: str) -> Person | None:
        """Who this is: None after 12 h without a call, after 14 days, or once the person is disabled."""
        raise NotImplementedError

    def close_session(self, token: str) -> None:
        """Log out."""
        raise NotImplementedError

    def revoke_all(self, by: str | None, person: str) -> int:
        """End every session and API token of a person; returns how many."""
        raise NotImplementedError

    def create_token(self, by: str | None, label: str, scope: Scope) -> str:
        """A token for programs: "read" pulls rankings, "write" may also add items. Owners only."""
        raise NotImplementedError

    def api_token(self, token: str) -> ApiToken | None:
        """What a program's token allows; None where it is unknown or revoked."""
        raise NotImplementedError

    def api_tokens(self) -> list[ApiToken]:
        """Those that work, oldest first."""
        raise NotImplementedError

    def revoke_token(self, by: str | None, id: str) -> None:
        """An API token, by its id."""
        raise NotImplementedError

    # -- the team ----------------------------------------------------------------------------------------------------

    def list(self) -> list[Person]:
        """Everybody, oldest first."""
        raise NotImplementedError

    def person(self, id: str) -> Person:
        """Raises ForbiddenError where there is none."""
        raise NotImplementedError

    def set_role(self, by: str | None, person: str, role: Role) -> None:
        """Owners only."""
        raise NotImplementedError

    def set_groups(self, by: str | None, person: str, groups: Sequence[str]) -> None:
        """Which tags this person gets beside the untagged items. Owners and reviewers."""
        raise NotImplementedError

    def set_limit(self, by: str | None, person: str, limit: int | None) -> None:
        """The most items this person may rank; None: as `[annotate] limit` says. Owners and reviewers."""
        raise NotImplementedError

    def disable(self, by: str | None, person: str, disabled: bool = True) -> None:
        """Lock somebody out (or in again); sessions end, rankings stay. Owners only."""
        raise NotImplementedError

    def exclude(self, by: str | None, person: str, reason: str) -> None:
        """Leave a person's rankings, past and future, out of training: kept, marked. They get no more work."""
        raise NotImplementedError

    def include(self, by: str | None, person: str) -> None:
        """Undo `exclude`."""
        raise NotImplementedError

    def models_of(self, person: str) -> list[ModelRow]:
        """The models trained on any ranking of this person, oldest first."""
        raise NotImplementedError

    def delete(self, by: str | None, person: str, *, keep_rankings: bool) -> list[ModelRow]:
        """Forget a person: name, comments, drafts and history go; returns the models that learnt from them.

        keep_rankings: stay under a fresh random id; otherwise they are removed and their items opened again.
        """
        raise NotImplementedError

    # -- the log -----------------------------------------------------------------------------------------------------

    def record(self, who: str | None, what: str, object: str, before: object = None, after: object = None) -> None:
        """One line of the audit log; `before` and `after` (JSON) are kept as hashes only."""
        raise NotImplementedError

    def audit(self, limit: int = 100, after: int = 0) -> list[AuditRow]:
        """Oldest first, those with a number above `after`. Nobody can change or delete a line."""
        raise NotImplementedError

    def secret(self, name: str) -> str:
        """A secret of this project (64 hex digits), made when first asked for: the key that webhooks are signed with."""
        raise NotImplementedError
