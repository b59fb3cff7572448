"""Computes the figures of agreement in a separate process, since a large project takes longer than a page may.

A thread would slow down the people who rank at the same time. The server itself runs without numpy and scipy, which the
model of annotators needs.
"""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from prefloop.config import Config
from prefloop.store import Queue, Store
from prefloop.store.feed import latest
from prefloop.store.log import latest_line
from prefloop.web.views.review import ItemSummary, summarise

if TYPE_CHECKING:
    from prefloop.labels.annotators import AnnotatorReport

FRESH_S = 15.0  # Figures younger than this are not counted again,
SHARE = 20  # nor are they before this many times the duration of the last count.
PATIENCE_S = 0.2  # A page waits so long for new figures.

# It holds the newest ranking and the newest line of the audit log, since gold and exclusions change figures too.
_Cursor = tuple[int, int]


@dataclass(frozen=True)
class Counted:
    """Holds the figures of one criterion, and when they were counted (seconds since 1970).

    flagged: how many items wait for a reviewer because somebody flagged them
    split:   how many items wait for a reviewer because people disagree
    """

    report: AnnotatorReport
    flagged: int
    split: int
    at: float


@dataclass(frozen=True)
class LatestFigures:
    """Holds what can be shown now.

    counted:  None before the first time
    counting: whether newer figures are being counted
    """

    counted: Counted | None
    counting: bool


@dataclass
class Figures:
    """Holds the latest figures of each criterion, one object a server process. Several threads may call `get`."""

    _lock: threading.Lock = field(default_factory=threading.Lock)
    # The last value is the earliest time of the next count.
    _known: dict[str, tuple[Counted, _Cursor, float]] = field(default_factory=dict)
    _running: dict[str, threading.Thread] = field(default_factory=dict)
    _failed: dict[str, Exception] = field(default_factory=dict)

    def get(self, root: Path, config: Config, store: Store, criterion: str) -> LatestFigures:
        """Return the latest figures. New ones are counted in the background if something has changed since.

        Raises an error of the last count, once.
        """
        cursor = (latest(store), latest_line(store))
        with self._lock:
            self._raise(criterion)
            if criterion in self._known:
                counted, then, not_before = self._known[criterion]
                if then == cursor:
                    return LatestFigures(counted, criterion in self._running)
                if time.monotonic() < not_before and criterion not in self._running:
                    return LatestFigures(counted, True)  # The next call of `get` raises it.
            thread = self._running.get(criterion)
            if thread is None:
                thread = threading.Thread(target=self._count, args=(root, config, criterion, cursor), daemon=True)
                self._running[criterion] = thread
                thread.start()
        thread.join(PATIENCE_S)
        with self._lock:
            self._raise(criterion)
            known = self._known.get(criterion)
            return LatestFigures(known[0] if known else None, criterion in self._running)

    def _raise(self, criterion: str) -> None:
        if failed := self._failed.pop(criterion, None):
            raise failed

    def _count(self, root: Path, config: Config, criterion: str, cursor: _Cursor) -> None:
        try:
            at, began = time.time(), time.monotonic()
            with ProcessPoolExecutor(1, get_context("spawn")) as process:
                report, flagged, split = process.submit(count, root, config, criterion).result()
            now = time.monotonic()
            not_before = now + max(FRESH_S, SHARE * (now - began))
            with self._lock:
                self._known[criterion] = Counted(report, flagged, split, at), cursor, not_before
        except Exception as error:  # noqa: BLE001 - whoever asks for the page gets it, and the server goes on
            with self._lock:
                self._failed[criterion] = error
        finally:
            with self._lock:
                del self._running[criterion]


def count(root: Path, config: Config, criterion: str) -> tuple[AnnotatorReport, int, int]:
    """Return the report of a project's store, and how many items wait for a review: flagged ones, and disputed ones.

    It runs at low priority.
    """
    from prefloop.labels.annotators import annotator_report

    os.nice(10)
    with Store.open(config.project.store, root, create=False) as store:
        queue = Queue(store, config.annotate, seed=config.project.seed)
        golds, settled = dict(queue.golds()), queue.settled()
        items = list(store.items(criterion=criterion, ranked=True, excluded=True))
        passed = {item: flags for item, flags in queue.skip_flags().items() if item not in settled}
        heard = [summarise(item, criterion, passed.pop(item.id, ())) for item in items if item.id not in settled]
        waiting = [one for one in heard if one.waiting]
        # Nobody ranked these items.
        waiting += [ItemSummary(0, 0, 0, dict.fromkeys(flags, 1), 0, False) for flags in passed.values()]
        flagged = sum(1 for one in waiting if one.flags)
        return annotator_report(items, criterion, golds), flagged, len(waiting) - flagged
