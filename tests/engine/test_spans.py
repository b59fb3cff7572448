"""A profile says where the time went: it holds every second once, and none of it is lost."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from prefloop.cli.main import run
from prefloop.engine.profiling import next_step, profiling, span


def test_a_span_has_its_own_time_without_that_of_spans_inside() -> None:
    before = time.perf_counter()
    with profiling() as profile:
        with span("outer"):
            time.sleep(0.02)
            for _ in range(2):
                with span("inner"):
                    time.sleep(0.03)
        time.sleep(0.01)
    whole = time.perf_counter() - before
    assert 0.02 <= profile.seconds["outer"] < 0.055 <= profile.seconds["inner"]
    assert profile.calls == {"outer": 1, "inner": 2}
    assert 0.9 * whole < sum(profile.seconds.values()) <= whole
    assert [row["what"] for row in profile.rows()][0] == "inner"


def test_without_profiling_a_span_leaves_no_trace() -> None:
    with span("nothing"):
        next_step()


def test_a_span_ends_with_an_error_too() -> None:
    with profiling() as profile:
        try:
            with span("bad"):
                raise ValueError
        except ValueError:
            pass
        time.sleep(0.02)
    assert profile.seconds["other"] >= 0.02


def test_a_command_shows_its_profile_and_writes_a_trace(tiny_project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["sft", "-C", str(tiny_project), "--profile"]
    assert run(command) == 0
    (folder,) = (tiny_project / "runs").iterdir()
    rows = {row["what"]: row for row in json.loads((folder / "profile.json").read_text())}
    assert {"learner", "evaluation", "I/O", "other"} <= rows.keys() and rows["learner"]["calls"] > 2
    names = {event.get("name") for event in json.loads((folder / "trace.json").read_text())["traceEvents"]}
    assert "learner" in names
    shown = capsys.readouterr().err
    assert "ms a call" in shown and "trace.json" in shown
    assert run(command) == 0
    assert "nothing to profile" in capsys.readouterr().err
