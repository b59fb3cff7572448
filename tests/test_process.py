"""A note of a process tells whether that very process still runs, and admits what cannot be known."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from prefloop import process


def test_this_process_runs_and_one_that_has_ended_does_not() -> None:
    mine = process.this_process()
    assert process.runs(mine) is True
    ended = subprocess.Popen([sys.executable, "-c", "pass"])
    ended.wait()
    assert process.runs({**mine, "pid": ended.pid}) is False


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="only Linux says when a process began")
def test_a_later_process_with_the_same_number_is_another_one() -> None:
    mine = process.this_process()
    assert process.runs({**mine, "started": mine["started"] - 1}) is False


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="only Linux tells an ended process from a running one")
def test_a_process_that_has_ended_and_that_nobody_waited_for_does_not_run() -> None:
    with subprocess.Popen([sys.executable, "-c", "pass"]) as ended:
        note = {**process.this_process(), "pid": ended.pid, "started": process.started(ended.pid)}
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        assert process.runs(note) is False


@pytest.mark.parametrize("note", [None, {}, {"pid": 1}, "4", {**process.this_process(), "machine": "another"}])
def test_of_another_machine_and_of_an_old_note_nothing_is_known(note: object) -> None:
    assert process.runs(note) is None


@pytest.mark.parametrize("pid", [0, -1, 10**30, "7", None])
def test_an_odd_number_is_no_process(pid: object) -> None:
    assert process.runs({**process.this_process(), "pid": pid}) is False
