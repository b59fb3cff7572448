"""The agreement page's figures, counted off the request: a large project takes longer than a page may.

The model of annotators needs numpy and scipy, which the rest of the server does without: they are loaded here, when
somebody first asks.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

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
    """The last figures of each criterion, one set a process. `get` may be called from several threads."""

    _lock: threading.Lock = field(default_factory=threading.Lock)
    _known: dict[str, Counted] = field(default_factory=dict)
    _running: dict[str, threading.Thread] = field(default_factory=dict)
    _failed: dict[str, Exception] = field(default_factory=dict)

    def get(self, store: Store, queue: Queue, criterion: str) -> Counted | None:
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
                thread = threading.Thread(target=self._count, args=(store, queue, criterion), daemon=True)
                self._running[criterion] = thread
                thread.start()
        thread.join(PATIENCE_S)
        with self._lock:
            if failed := self._failed.pop(criterion, None):
                raise failed
            return self._known.get(criterion)

    def _count(self, store: Store, queue: Queue, criterion: str) -> None:
        from prefloop.labels.annotators import annotator_report

        try:
            at = time.time()
            items = list(store.items(criterion=criterion, ranked=True, excluded=True))
            report = annotator_report(items, criterion, dict(queue.golds()))
            with self._lock:
                self._known[criterion] = Counted(report, at)
        except Exception as error:  # noqa: BLE001 - whoever asks for the page gets it, and the server goes on
            with self._lock:
                self._failed[criterion] = error
        finally:
            with self._lock:
                del self._running[criterion]
