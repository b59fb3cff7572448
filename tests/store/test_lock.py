"""Each project has one writer, and its lock never outlives its process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from prefloop.errors import BusyError
from prefloop.store import ProjectLock

HOLDER = """
import sys, time
from pathlib import Path
from prefloop.store.connections.lock import ProjectLock
with ProjectLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(root: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLDER, str(root)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    return holder


def test_a_second_process_is_told_who_holds_the_project(tmp_path: Path) -> None:
    with hold(tmp_path) as holder:
        with pytest.raises(BusyError, match=rf"process {holder.pid} \(-c .*Wait until it has finished, or stop it"):
            ProjectLock(tmp_path).acquire()
        holder.communicate("")
    with ProjectLock(tmp_path):
        pass


def test_the_lock_dies_with_its_process(tmp_path: Path) -> None:
    with hold(tmp_path) as holder:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with ProjectLock(tmp_path), pytest.raises(BusyError, match=f"process {os.getpid()} "):
        ProjectLock(tmp_path).acquire()


def test_a_refused_lock_leaves_the_holder_s_note_alone(tmp_path: Path) -> None:
    with ProjectLock(tmp_path):
        for _ in range(2):
            loser = ProjectLock(tmp_path)
            with pytest.raises(BusyError, match=f"process {os.getpid()} "):
                loser.acquire()
            loser.release()


def test_projects_do_not_share_a_lock(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with ProjectLock(tmp_path / "a"), ProjectLock(tmp_path / "b"):
        pass
