"""One writer for each project: a lock that dies with its process, and says who holds it."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock, Timeout

from prefloop.errors import BusyError, StoreError

LOCK_NAME = ".prefloop.lock"
HOLDER_NAME = ".prefloop.lock.json"  # beside the lock: taking the lock empties the lock file itself


class ProjectLock:
    """`with ProjectLock(root):` around everything that writes. Never waits; not reentrant between objects."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._holder = root / HOLDER_NAME
        self._lock = FileLock(root / LOCK_NAME)

    def acquire(self) -> Self:
        """Raises BusyError naming the process that holds the project, StoreError where the folder is read-only."""
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise BusyError(
                f"{self._root}: {self._who()} is working on this project. Wait until it has finished, or stop it: "
                "work resumes from its last checkpoint."
            ) from None
        except OSError as error:
            raise StoreError(
                f"cannot lock {self._root / LOCK_NAME}: {error}. Check that you may write there."
            ) from None
        self._holder.write_text(json.dumps({"pid": os.getpid(), "command": shlex.join(sys.argv)}), encoding="utf-8")
        return self

    def release(self) -> None:
        if self._lock.is_locked:
            self._holder.unlink(missing_ok=True)  # first: once released, the next holder's note must stay
            self._lock.release()

    def __enter__(self) -> Self:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def _who(self) -> str:
        try:
            holder = json.loads(self._holder.read_text(encoding="utf-8"))
            return f"process {holder['pid']} ({holder['command']})"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"  # it has the lock but has not written its name yet
