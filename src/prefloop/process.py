"""Says which process wrote something, so that a later reader knows whether it still runs."""

from __future__ import annotations

import os
import platform
import uuid
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

_PROC = Path("/proc")


def this_process() -> dict[str, Any]:
    """Return a note that tells this process from every other one: plain JSON."""
    pid = os.getpid()
    return {"pid": pid, "started": started(pid), "machine": machine()}


def runs(note: object) -> bool | None:
    """Return whether the process of a note still runs; None where that cannot be known from here.

    It is not known of another machine, of this one before it was started again, and of a note of an older version.
    """
    if not isinstance(note, Mapping) or note.get("machine") != machine():
        return None
    pid = note.get("pid")
    if not isinstance(pid, int) or not is_there(pid):
        return False
    return note.get("started") == started(pid)  # Else a later process has been given the number.


def is_there(pid: int) -> bool:
    """Return whether a process of this number runs on this machine."""
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # The process is there, and somebody else's.
        return True
    return not (_stat(pid) or "").startswith(" Z")  # One that has ended stays so until its parent has asked.


def started(pid: int) -> int | None:
    """Return when a process began, in ticks since the machine did; None where the system does not say."""
    fields = (_stat(pid) or "").split()
    return int(fields[19]) if len(fields) > 19 else None


@cache
def machine() -> str:
    """Return what numbers of processes hold for: this machine since it was started, or this container of it."""
    known = [platform.node()]
    for path, read in ((_PROC / "sys/kernel/random/boot_id", Path.read_text), (_PROC / "self/ns/pid", os.readlink)):
        try:
            known.append(str(read(path)).strip())
        except OSError:
            known.append(f"{uuid.getnode():x}")
    return sha256("\n".join(known).encode()).hexdigest()[:16]


def _stat(pid: int) -> str | None:
    """Return what Linux says of a process behind its name, which may hold spaces; None on other systems."""
    try:
        return (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
    except OSError:
        return None
