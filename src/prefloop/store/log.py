"""Reads the audit log for pages, newest line first. `People.audit` reads it in the order of writing."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select

from prefloop.store.people.types import AuditRow
from prefloop.store.schema import audit
from prefloop.store.store import Store


def newest(store: Store, limit: int, before: int | None = None) -> list[AuditRow]:
    """Return the newest lines first, limited to numbers below `before` if that is given."""
    query = select(audit).order_by(audit.c.seq.desc()).limit(limit)
    if before is not None:
        query = query.where(audit.c.seq < before)
    with store.database.read() as connection:
        return [to_line(row) for row in connection.execute(query)]


def latest_line(store: Store) -> int:
    """Return the number of the newest line; 0 before the first."""
    with store.database.read() as connection:
        return connection.scalar(select(func.max(audit.c.seq))) or 0


def to_line(row: Any) -> AuditRow:
    return AuditRow(row.seq, row.at, row.who, row.what, row.object, row.before, row.after)
