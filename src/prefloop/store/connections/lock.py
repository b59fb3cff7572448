"""Provides locks that end with their process and say who holds them: one worker a project, one server a SQLite file."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock, Timeout

from prefloop.errors import BusyError, StoreError
from prefloop.process import this_process
from prefloop.record import LOCK_NAME, holder, note_of_lock


class ProcessLock:
    """Locks a file that only one process can hold. It never waits, and it is not reentrant between objects.

    refusal: the message for the second process, with {who} for the one that holds the lock
    """

    def __init__(self, path: Path, refusal: str) -> None:
        self._path = path
        self._refusal = refusal
        self._holder = note_of_lock(path)
        self._lock = FileLock(path)

    def acquire(self) -> Self:
        """Take the lock.

        Raises BusyError, which names the process that holds the lock, and StoreError if the folder is read-only.
        """
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise BusyError(self._refusal.format(who=self._who())) from None
        except OSError as error:
            raise StoreError(f"cannot lock {self._path}: {error}. Check that you may write there.") from None
        note = {**this_process(), "command": shlex.join(sys.argv)}
        self._holder.write_text(json.dumps(note), encoding="utf-8")
        return self

    def release(self) -> None:
        if self._lock.is_locked:
            # The note is removed before the release, since afterwards the file belongs to the next holder.
            self._holder.unlink(missing_ok=True)
            self._lock.release()

    def __enter__(self) -> Self:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def _who(self) -> str:
        found = holder(self._path)
        # Where there is none, the holder has not written its name yet.
        return "another process" if found is None else f"process {found.pid} ({found.command})"


class ProjectLock(ProcessLock):
    """Use `with ProjectLock(root):` around everything that makes runs and models."""

    def __init__(self, root: Path) -> None:
        super().__init__(
            root / LOCK_NAME,
            f"{_literal(root)}: {{who}} is working on this project. Wait until it has finished, or stop it: "
            "work resumes from its last checkpoint.",
        )


class ServerLock(ProcessLock):
    """Use `with ServerLock(database):` around a server over a SQLite file, which only one process may serve.

    Two servers would count sign-in attempts separately, and each would remove the other's address when it stops.
    """

    def __init__(self, database: Path) -> None:
        super().__init__(
            database.with_name(f".{database.name}.server"),
            f"{_literal(database)}: {{who}} already serves this store. Use that server, or stop it first. Several "
            "servers at once need Postgres: [project] store = postgresql+pg8000://user:password@host/name",
        )


def _literal(path: Path) -> str:
    return str(path).replace("{", "{{").replace("}", "}}")
