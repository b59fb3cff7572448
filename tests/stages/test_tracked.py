"""A real stage hands its metrics to a tracker, and is the same run with and without it."""

from __future__ import annotations

from pathlib import Path

import pytest
from resumable import build

from prefloop.project.project import Project
from prefloop.record import find_run
from prefloop.stages.train_reward import reward


def test_a_stage_s_metrics_stand_in_the_tracker_and_the_run_is_the_same_without_it(tmp_path: Path) -> None:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed"
    )
    root = tmp_path / "project"
    build(root, with_reward=False)
    with Project.open(root, ['track.to=["tensorboard"]', "project.name=mine"], quiet=True) as project:
        reward(project)
    run = find_run(root, "reward")
    assert run is not None
    events = accumulator.EventAccumulator(str(root / "tracking" / "tensorboard" / "mine" / run.name))
    events.Reload()
    logged = [(line["step"], line["loss"]) for line in run.metrics() if "loss" in line]
    assert logged and [(e.step, e.value) for e in events.Scalars("train/loss")] == [
        (step, pytest.approx(value)) for step, value in logged
    ]
    with Project.open(root, quiet=True) as project:
        assert reward(project).skipped, "tracking decides nothing"
