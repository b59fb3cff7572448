"""Counts for those who run the work: who ranked how much and when, the size of the store, and its last backup."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import case, exists, func, select, text

from prefloop.store.queue.fill import keep_setting
from prefloop.store.queue.read import setting
from prefloop.store.schema import items, leases, rankings
from prefloop.store.store import Store

HOUR_S, DAY_S = 3600.0, 86400.0
DAYS = 14
_BACKUP = "backup:at"


@dataclass(frozen=True)
class Pace:
    """Says how many items one person ranked lately.

    days: the number in each of the last `DAYS` periods of 24 hours, oldest first
    """

    hour: int
    days: tuple[int, ...]
    latest: float | None  # This is the time of the last ranking, in seconds since 1970.

    @property
    def today(self) -> int:
        """Return the items of the last 24 hours, because the server does not know the time zone of the reader."""
        return self.days[-1]


def paces(store: Store, now: float) -> dict[str, Pace]:
    """Return the pace of everybody who ranked in the last `DAYS` days."""
    edges = [now - DAY_S * (DAYS - n) for n in range(DAYS)]
    days = [func.count().filter(leases.c.given_at >= at, leases.c.given_at < at + DAY_S) for at in edges[:-1]]
    days.append(func.count().filter(leases.c.given_at >= edges[-1]))
    hour = func.count().filter(leases.c.given_at >= now - HOUR_S)
    query = select(leases.c.person, hour, func.max(leases.c.given_at), *days)
    query = query.where(leases.c.state == "done", leases.c.given_at >= edges[0]).group_by(leases.c.person)
    with store.database.read() as connection:
        return {row[0]: Pace(row[1], tuple(row[3:]), row[2]) for row in connection.execute(query)}


def lists_by_round(store: Store) -> dict[int, tuple[int, int]]:
    """Return {round: (lists, how many of them have any ranking)}, counted by the database."""
    any_ranking = exists().where(rankings.c.item_id == items.c.id)
    ranked = func.sum(case((any_ranking, 1), else_=0))
    with store.database.read() as connection:
        rows = connection.execute(select(items.c.round, func.count(), ranked).group_by(items.c.round)).all()
    return {row[0]: (int(row[1]), int(row[2])) for row in rows}


def total(found: Mapping[str, Pace]) -> Pace:
    """Return the sum over all people."""
    columns = zip(*(pace.days for pace in found.values()), strict=True)
    latest = max((pace.latest for pace in found.values() if pace.latest is not None), default=None)
    return Pace(sum(pace.hour for pace in found.values()), tuple(map(sum, columns)) or (0,) * DAYS, latest)


def size(store: Store) -> int:
    """Return how many bytes the store takes on the disk, including the write-ahead log."""
    if not store.database.sqlite:
        with store.database.read() as connection:
            return int(connection.scalar(text("SELECT pg_database_size(current_database())")) or 0)
    file = Path(store.database.label)
    return sum(part.stat().st_size for part in (file, file.with_name(f"{file.name}-wal")) if part.exists())


def note_backup(store: Store, at: float) -> None:
    """Store the time of a backup."""
    with store.database.write() as connection:
        keep_setting(connection, _BACKUP, at)


def last_backup(store: Store) -> float | None:
    """Return the time of the last `prefloop backup`; None if there was none."""
    with store.database.read() as connection:
        at: float | None = setting(connection, _BACKUP, None)
        return at
