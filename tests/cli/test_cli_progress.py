"""Where there is no terminal, plain lines give signs of life: step, total, rate, and the time that is left."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from prefloop.project import lines as progress_lines
from prefloop.project.lines import Lines

LOOP = {
    "sft": r"sft: \d+ of 8, .*left",
    "sample": r"sample: \d+ of 40",
    "crowd": None,  # Here it is over before the first line.
    "reward": r"reward quality: \d+ of \d+, .*left",
    "align": r"align \(ppo\): \d+ of 4, .* left  \(reward -?\d.*kl .*length",
    "evaluate": r"evaluate[^:]*: \d+ of \d+",
}


def test_every_long_stage_writes_lines_into_a_log_and_none_when_it_is_quiet(
    prefloop: Callable, tiny_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_lines, "EVERY_S", 0.01)
    for verb, pattern in LOOP.items():
        said = prefloop(verb, "-C", tiny_project)
        assert said.code == 0, said.err
        assert pattern is None or re.search(rf"(?m)^{pattern}", said.err), f"{verb}:\n{said.err}"
        assert "\r" not in said.err and "\x1b" not in said.err, "bars and colours are for terminals"
    assert not prefloop("sft", "-C", tiny_project, "-q", "--set", "sft.epochs=1").err


def test_an_import_says_how_many_rows_it_has_read(
    prefloop: Callable, tiny_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_lines, "EVERY_S", 0.01)
    file = tiny_project / "many.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"Say {n} things."}) + "\n" for n in range(4000)))
    said = prefloop("import", file, "-C", tiny_project)
    assert re.search(r"(?m)^import many.jsonl: rows: \d+, ", said.err), said.err


@pytest.mark.parametrize(
    ("start", "done", "total", "seconds", "line"),
    [
        (0, 0, 600, 65, "align: 0 of 600, after 01:05"),
        (0, 40, 600, 372, "align: 40 of 600, 9.3 s each, 1:26:48 left"),
        (100, 40, 600, 372, "align: 140 of 600, 9.3 s each, 1:11:18 left"),  # The rate is that of this process.
        (0, 400, 600, 100, "align: 400 of 600, 4.0 a second, 00:50 left"),
        (0, 600, 600, 100, "align: 600 of 600, 6.0 a second, 00:00 left"),
        (0, 12000, None, 60, "align: 12000, 200.0 a second"),
    ],
)
def test_a_line_says_how_far_how_fast_and_how_long_to_go(
    start: int, done: int, total: int | None, seconds: float, line: str
) -> None:
    lines = Lines(print, total, "align", start)
    lines.update(done)
    assert lines.line(seconds) == line
    lines.set_postfix(loss="0.5")
    assert lines.line(seconds) == f"{line}  (loss 0.5)"


def test_a_step_that_takes_long_is_no_silence_and_the_end_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_lines, "EVERY_S", 0.01)
    said: list[str] = []
    with Lines(said.append, 2, "evaluate"):
        until = time.monotonic() + 10
        while len(said) < 2 and time.monotonic() < until:
            time.sleep(0.001)
    count = len(said)
    assert count >= 2 and all(line.startswith("evaluate: 0 of 2, after 00:0") for line in said)
    time.sleep(0.05)
    assert len(said) == count
