"""The loop that every training stage goes round: when it evaluates, saves, stops, resumes. The engine is scripted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from prefloop.algorithms.sft import Sft
from prefloop.config_section import Optimiser
from prefloop.engine import Training
from prefloop.engine.base import Term
from prefloop.engine.checkpoint import load_checkpoint
from prefloop.engine.profiling import span
from prefloop.engine.scripted import ScriptedEngine
from prefloop.project.project import Project
from prefloop.record import Run
from prefloop.training.loop import Schedule, train
from tiny_models import TINY_MODEL, random_rows


class Task:
    """Learns from random rows, and stops at an evaluation. `asked` says what the loop asked for, in order."""

    def __init__(self, stop_at: int = 99, die_at: int = 99):
        self.engine = ScriptedEngine(training=Training(Optimiser(lr=0.1), 9, {"policy": 0.1}, average=0.9))
        self.stop_at, self.die_at, self.stopped = stop_at, die_at, ""
        self.asked: list[tuple[str, int]] = []

    def weights(self) -> float:
        return float(self.engine.forward("policy", random_rows(seed=99)).sum())

    def begin(self, fresh: bool) -> Mapping[str, float]:
        self.asked.append(("begin", int(fresh)))
        return {"baseline": 7.0}

    def step(self, step: int) -> Mapping[str, float]:
        if step == self.die_at:
            raise KeyboardInterrupt
        self.asked.append(("step", step))
        with span("learn"), span("inside"):
            return {**self.engine.step(Term(random_rows(seed=step), Sft())), "own": self.weights()}

    def evaluate(self, done: int) -> Mapping[str, float]:
        self.asked.append(("evaluate", done))
        if done >= self.stop_at:
            self.stopped = "enough"
        return {"averaged": self.weights()}

    def logged(self, done: int) -> None:
        pass

    def state(self) -> dict[str, Any]:
        return {"stopped": self.stopped}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.stopped = state["stopped"]


def trained(root: Path, task: Task, schedule: Schedule) -> tuple[int, Run]:
    root.mkdir(exist_ok=True)
    (root / "prefloop.toml").write_text(TINY_MODEL)
    with Project.open(root, quiet=True) as project:
        run = project.begin("sft", "the same", {})
        return train(project, run, task.engine, task, schedule, "x", shown=("loss",)), run


def test_it_evaluates_before_the_first_step_every_so_often_and_after_the_last(tmp_path: Path) -> None:
    task = Task()
    done, run = trained(tmp_path, task, Schedule(5, eval_every=2, checkpoint_every=3, evaluates_first=True))
    steps = [("step", 0), ("step", 1), ("evaluate", 2), ("step", 2), ("step", 3), ("evaluate", 4), ("step", 4)]
    assert done == 5 and task.asked == [("begin", 1), ("evaluate", 0), *steps, ("evaluate", 5)]
    lines = {line["step"]: line for line in run.metrics()}
    assert [step for step, line in lines.items() if "averaged" in line] == [0, 2, 4, 5]
    assert lines[0]["baseline"] == 7.0 and "loss" in lines[1]
    checkpoints = sorted(path.name for path in (run.path / "checkpoints").iterdir())
    assert checkpoints == ["step-00000003", "step-00000005"]


def test_an_evaluation_sees_the_averaged_weights_and_a_step_its_own(tmp_path: Path) -> None:
    _, run = trained(tmp_path, Task(), Schedule(4, eval_every=2, checkpoint_every=9))
    lines = run.metrics()
    assert lines[0]["step"] == 1, "nobody asked for an evaluation before the first step"
    later = [line for line in lines if "averaged" in line]
    assert [line["step"] for line in later] == [2, 4]
    first = lines[0]["own"]  # the average lags behind
    assert all(abs(line["averaged"] - first) < 0.9 * abs(line["own"] - first) for line in later)


def test_a_task_that_stops_is_saved_and_does_not_go_on_when_it_is_resumed(tmp_path: Path) -> None:
    schedule = Schedule(9, eval_every=2, checkpoint_every=100)
    done, run = trained(tmp_path, Task(stop_at=4), schedule)
    saved = load_checkpoint(run.path / "checkpoints")
    assert done == 4 and saved is not None and saved.step == 4 and saved.state["progress"] == {"stopped": "enough"}
    task = Task()
    assert trained(tmp_path, task, schedule)[0] == 4 and task.asked == [("begin", 0)]


def test_a_run_that_was_broken_off_is_rewound_to_its_checkpoint(tmp_path: Path) -> None:
    schedule = Schedule(6, eval_every=4, checkpoint_every=2, evaluates_first=True)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "broken", Task(die_at=5), schedule)
    again, straight = Task(), Task()
    found = trained(tmp_path / "broken", again, schedule)[1].metrics()
    assert again.asked[:2] == [("begin", 0), ("step", 4)], "no second evaluation before the first step"
    assert found == trained(tmp_path / "straight", straight, schedule)[1].metrics()
    assert again.weights() == straight.weights()


def test_the_timings_of_a_step_are_its_outermost_spans(tmp_path: Path) -> None:
    _, run = trained(tmp_path, Task(), Schedule(2, eval_every=1, checkpoint_every=1))
    lines = (run.path / "timings.jsonl").read_text().splitlines()
    assert len(lines) == 2 and all('"learn"' in line and "inside" not in line and "I/O" not in line for line in lines)
