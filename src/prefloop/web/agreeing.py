"""The agreement page's figures, counted in a process of their own: a large project takes longer than a page may.

Not in a thread, which would take turns with the people who rank meanwhile. The server itself does without numpy and
scipy, which the model of annotators needs.
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

if TYPE_CHECKING:
    from prefloop.labels.annotators import AnnotatorReport

FRESH_S = 60.0  # figures younger than this are shown as they are
PATIENCE_S = 0.2  # how long a page waits for new ones


@dataclass(frozen=True)
class Counted:
    """Figures of one criterion, and when they were counted (seconds since 1970)."""

    report: AnnotatorReport
    at: float


@dataclass
class Figures:
    """The last figures of each criterion, one set a server process. `get` may be called from several threads."""

    _lock: threading.Lock = field(default_factory=threading.Lock)
    _known: dict[str, Counted] = field(default_factory=dict)
    _running: dict[str, threading.Thread] = field(default_factory=dict)
    _failed: dict[str, Exception] = field(default_factory=dict)

    def get(self, root: Path, config: Config, criterion: str) -> Counted | None:
        """Figures at most a minute old, or the last ones while new ones are being counted; None: not ready yet.

        Raises what counting raised, once.
        """
        with self._lock:
            if failed := self._failed.pop(criterion, None):
                raise failed
            known = self._known.get(criterion)
            if known is not None and time.time() - known.at < FRESH_S:
                return known
            thread = self._running.get(criterion)
            if thread is None:
                thread = threading.Thread(target=self._count, args=(root, config, criterion), daemon=True)
                self._running[criterion] = thread
                thread.start()
        thread.join(PATIENCE_S)
        with self._lock:
            if failed := self._failed.pop(criterion, None):
                raise failed
            return self._known.get(criterion)

    def _count(self, root: Path, config: Config, criterion: str) -> None:
        try:
            at = time.time()
            with ProcessPoolExecutor(1, get_context("spawn")) as process:
                report = process.submit(count, root, config, criterion).result()
            with self._lock:
                self._known[criterion] = Counted(report, at)
        except Exception as error:  # noqa: BLE001 - whoever asks for the page gets it, and the server goes on
            with self._lock:
                self._failed[criterion] = error
        finally:
            with self._lock:
                del self._running[criterion]


def count(root: Path, config: Config, criterion: str) -> AnnotatorReport:
    """The report of a project's store. Gives way to whatever else wants the processor."""
    from prefloop.labels.annotators import annotator_report

    os.nice(10)
    with Store.open(config.project.store, root, create=False) as store:
        queue = Queue(store, config.annotate, seed=config.project.seed)
        items = list(store.items(criterion=criterion, ranked=True, excluded=True))
        return annotator_report(items, criterion, dict(queue.golds()))
