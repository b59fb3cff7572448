"""Runs one command until it ends or its parent does, and leaves nothing of it behind.

    python -m prefloop.engine.rollouts.keeper COMMAND...   (standard input is a pipe that the parent holds)

A server must not outlive a trainer that was killed: it holds a device, and a port. The pipe closes when the parent
dies, by whatever cause. The command has a process group of its own, all of which is ended.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

from prefloop.engine.process import die_with_parent

GRACE_S = 5.0
LOOK_S = 0.2


def main(command: list[str]) -> int:
    parent = os.getppid()
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=die_with_parent)
    gone = threading.Event()
    threading.Thread(target=_wait_for_end_of_input, args=(gone,), daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: gone.set())
    while child.poll() is None and os.getppid() == parent and not gone.wait(LOOK_S):
        pass
    _end(child)
    return child.returncode or 0


def _wait_for_end_of_input(gone: threading.Event) -> None:
    with suppress(OSError):
        while os.read(0, 4096):
            pass
    gone.set()


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the command's whole group: politely, then not."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        child.wait(GRACE_S)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
