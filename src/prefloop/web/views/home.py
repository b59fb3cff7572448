"""Computes what home pages show: an owner's and a reviewer's view of the work, and each person's own."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prefloop.store import Person, Quota, Store
from prefloop.store.feed import latest
from prefloop.store.overview import DAYS, Pace, last_backup, paces, size, total
from prefloop.web.views.agreement import LatestFigures

if TYPE_CHECKING:
    from prefloop.labels.suspicion import Evidence
    from prefloop.labels.tallies import Counted
    from prefloop.web.services import Services

_KEPT_S = 5.0  # Paces are counted at most this often,
_SHARE = 20  # and at most once in this many times the duration of a count.
BACKUP_DUE_S = 7 * 86400.0
FULL_BYTES = 1 << 30  # There is a warning below so many free bytes, and also below the store's own size.


@dataclass
class Paces:
    """Counts who ranked how much lately. It counts only now and then, since the home page reloads by itself."""

    _lock: threading.Lock = field(default_factory=threading.Lock)
    _until: float = 0.0
    _known: dict[str, Pace] = field(default_factory=dict)

    def get(self, store: Store) -> dict[str, Pace]:
        with self._lock:
            began = time.monotonic()
            if began >= self._until:
                self._known = paces(store, time.time())
                now = time.monotonic()
                self._until = now + max(_KEPT_S, _SHARE * (now - began))
            return self._known


@dataclass(frozen=True)
class Member:
    """Holds one person in the owner's table.

    agreement, gold: (share, pairs), or None if there is nothing to compare
    """

    person: Person
    pace: Pace
    per_hour: float | None
    agreement: tuple[float, int] | None
    gold: tuple[float, int] | None
    warnings: tuple[Evidence, ...]


@dataclass(frozen=True)
class Disk:
    """Describes the disk and the backups.

    free:   bytes free on the disk of the store; None for another machine
    backup: the time of the last one
    """

    free: int | None
    size: int
    backup: float | None
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Work:
    """Says how much work is left.

    hours: people's time still needed; None before anybody has ranked
    days:  the days it takes at the pace of the last 24 hours
    """

    quota: Quota
    pace: Pace
    hours: float | None
    days: float | None

    @property
    def most(self) -> int:
        """Return the largest number of one day, for the chart."""
        return max(self.pace.days)


def work(known: Services, figures: LatestFigures) -> Work:
    """Return how far everybody together is, and how long the rest will take."""
    quota, pace = known.queue.quota(), total(known.paces.get(known.store))
    seconds = figures.counted.report.seconds if figures.counted else None
    return Work(
        quota=quota,
        pace=pace,
        hours=quota.open * seconds / 3600 if seconds else None,
        days=quota.open / pace.today if pace.today else None,
    )


def team(known: Services, figures: LatestFigures) -> list[Member]:
    """Return everybody who ranks or may rank, those who ranked most in the last 24 hours first."""
    found = known.paces.get(known.store)
    reports = {one.annotator: one for one in figures.counted.report.people} if figures.counted else {}
    nothing = Pace(0, (0,) * DAYS, None)
    members = []
    for person in known.people.list():
        if person.name is None:
            continue
        pace, report = found.get(person.id, nothing), reports.get(person.id)
        working = pace.latest is not None and not person.disabled
        members.append(
            Member(
                person=person,
                pace=pace,
                per_hour=known.queue.pace(person.id) if working else None,
                agreement=_share(report.agreement) if report else None,
                gold=_share(report.gold) if report else None,
                warnings=report.suspicions if report else (),
            )
        )
    return sorted(members, key=lambda one: (-one.pace.today, -one.person.done, one.person.created_at))


def _share(counted: Counted) -> tuple[float, int] | None:
    return None if counted.share is None else (counted.share, counted.n)


def look(known: Services) -> LatestFigures:
    """Return the figures of agreement on the current criterion. Nothing is counted before the first ranking."""
    if not latest(known.store):
        return LatestFigures(None, False)
    try:
        return known.figures.get(known.root, known.config, known.store, known.config.annotate.criterion)
    except Exception as error:  # noqa: BLE001 - the rest of the page is right all the same; /agreement tells
        print(f"counting agreement: {error}", file=sys.stderr)
        return LatestFigures(None, False)


def waiting(known: Services, figures: LatestFigures) -> Mapping[str, int]:
    """Return how many items wait for a reviewer, by reason. Reasons found in rankings are as old as the figures."""
    found = {"skipped": known.queue.skipped_only()}
    if figures.counted:
        found |= {"flagged": figures.counted.flagged, "split": figures.counted.split}
    return found


def disk(known: Services, now: float) -> Disk:
    """Return the free space, and the time of the last backup."""
    database = known.store.database
    taken, backup = size(known.store), last_backup(known.store)
    free = shutil.disk_usage(known.root).free
    warnings = []
    if database.sqlite and free < max(FULL_BYTES, taken):
        warnings.append("The disk is nearly full. When it is, no more rankings can be kept: make room.")
    if backup is None:
        warnings.append("There is no backup yet. Make one, also while people rank, with: prefloop backup FOLDER")
    elif now - backup > BACKUP_DUE_S:
        warnings.append("The last backup is more than a week old: prefloop backup FOLDER")
    return Disk(free if database.sqlite else None, taken, backup, tuple(warnings))
