"""Lets processes take turns at writing to a SQLite file.

SQLite orders transactions by itself. But in SQLite 3.7.0 to 3.51.2 a commit of one process that races the checkpoint of
another can be lost (the "WAL-reset bug", described at https://sqlite.org/wal.html). A checkpoint follows a commit on
the same connection, so it is enough that a process holds this lock from before its BEGIN until its COMMIT has returned.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from prefloop.errors import BusyError, StoreError

if sys.platform != "win32":
    import fcntl

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.0005, 0.02


class WriteTurns:
    """Locks the file `DATABASE-writer`. The lock dies with its process, and the last process removes the file.

    The database file itself is not locked: closing any handle on that would drop SQLite's own locks in this process.
    One thread at a time may use an object; `Database` sees to that.
    """

    def __init__(self, database: Path) -> None:
        self.path = database.with_name(f"{database.name}-writer")
        self._database = database
        self._handle: int | None = None

    @contextmanager
    def mine(self, timeout_s: float) -> Iterator[None]:
        """Hold the lock. Raises BusyError after the time-out, and StoreError if the file cannot be locked."""
        if sys.platform == "win32":  # Windows has no flock, so SQLite's own locks must be enough.
            yield
            return
        try:
            handle = self._take(time.monotonic() + timeout_s)
        except OSError as error:
            raise StoreError(
                f"cannot lock {self.path}: {error}. Check that the disk has room and that you may write there."
            ) from error
        if handle is None:
            raise BusyError(
                f"{self._database}: another process has been writing for {timeout_s:.0f} s. Wait for it, or stop it."
            )
        try:
            yield
        finally:
            with suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_UN)

    def _take(self, deadline: float) -> int | None:
        """Return the file handle once it holds the lock; None after the deadline."""
        pause = FIRST_PAUSE_S
        while True:
            if self._handle is None:
                self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    return None
                time.sleep(pause)
                pause = min(LONGEST_PAUSE_S, 2 * pause)
                continue
            if self._is_current(self._handle):
                return self._handle
            self._forget()  # The previous holder removed the file; other processes may have a newer file.

    def _is_current(self, handle: int) -> bool:
        held = os.fstat(handle)
        try:
            there = os.stat(self.path)
        except FileNotFoundError:
            return False
        return (held.st_dev, held.st_ino) == (there.st_dev, there.st_ino)

    def _forget(self) -> None:
        if self._handle is not None:
            os.close(self._handle)  # This also releases the lock.
            self._handle = None

    def close(self) -> None:
        """Remove the file, unless another process holds the lock now. A later process makes a new one."""
        if self._handle is None or sys.platform == "win32":
            return
        with suppress(OSError):
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self._is_current(self._handle):
                self.path.unlink()
        self._forget()
