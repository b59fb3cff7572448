"""Limits the time that a chat template may take. A template is somebody else's program and might never end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from prefloop.errors import ModelError

LONGEST_S = 20.0  # One conversation may take so long; templates take milliseconds.


@contextmanager
def bounded() -> Iterator[None]:
    """Raise ModelError if the body of this context takes longer than `LONGEST_S` seconds.

    It works only in the main thread of a POSIX system, where commands run. Elsewhere nothing could interrupt the body.
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(*_: object) -> None:
        raise ModelError(f"the model's chat template does not end: one conversation has taken it {LONGEST_S:g} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, LONGEST_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
