"""Defines the data types of people, with the standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["owner", "reviewer", "annotator"]
Scope = Literal["read", "write"]


@dataclass(frozen=True)
class Person:
    """Describes a person. `id` is random and public, and is `Ranking.annotator`.

    `name` is also the login; None once deleted.

    groups: the tags whose items this person gets beside the untagged ones
    excluded: the reason why the rankings are left out of training; None if they are not
    """

    id: str
    name: str | None
    role: Role
    groups: tuple[str, ...] = ()
    limit: int | None = None
    excluded: str | None = None
    disabled: bool = False
    created_at: float = 0.0
    done: int = 0  # the number of items ranked
    skipped: int = 0
    guidelines: str | None = None  # This is the hash of the guidelines that this person has read.


@dataclass(frozen=True)
class Account:
    """Holds a person with the hash of their password. It is for logging in and never shown."""

    person: Person
    password_hash: str


@dataclass(frozen=True)
class Invite:
    """Describes a valid invitation. Only its bearer knows the token itself."""

    id: str
    role: Role
    groups: tuple[str, ...]
    created_by: str | None
    created_at: float
    expires_at: float


@dataclass(frozen=True)
class ApiToken:
    """Describes a program's token."""

    id: str
    label: str
    scope: Scope
    created_by: str | None
    created_at: float
    used_at: float | None


@dataclass(frozen=True)
class AuditRow:
    """States who did what to what. `before` and `after` are hashes of its state; None if there is none."""

    number: int
    at: float
    who: str | None  # None is the command line.
    what: str
    object: str
    before: str | None
    after: str | None
