"""The store is the only part of prefloop that speaks SQL, with SQLite by default and Postgres by URL.

See docs/store.md.
"""

from prefloop.store.connections.address import get_address, listens, put_address
from prefloop.store.connections.lock import ProjectLock, ServerLock
from prefloop.store.people.people import People
from prefloop.store.people.types import Account, ApiToken, AuditRow, Invite, Person, Role, Scope
from prefloop.store.queue.queue import Queue
from prefloop.store.queue.rules import Change, Guidelines, Rules
from prefloop.store.queue.types import (
    Given,
    GivenRanking,
    ItemView,
    Passed,
    Presentation,
    Progress,
    Quota,
    Receipt,
    TaskRow,
)
from prefloop.store.records import Counts, ImportRow, ModelKind, ModelRow
from prefloop.store.split import split_of
from prefloop.store.store import Store

__all__ = [
    "Account",
    "ApiToken",
    "AuditRow",
    "Change",
    "Counts",
    "Given",
    "Guidelines",
    "ImportRow",
    "Invite",
    "ItemView",
    "ModelKind",
    "ModelRow",
    "Passed",
    "People",
    "Person",
    "Presentation",
    "Progress",
    "ProjectLock",
    "Queue",
    "Quota",
    "Receipt",
    "Role",
    "Rules",
    "GivenRanking",
    "Scope",
    "ServerLock",
    "Store",
    "TaskRow",
    "get_address",
    "listens",
    "put_address",
    "split_of",
]
