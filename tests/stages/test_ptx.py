"""`[align] ptx` mixes supervised loss into policy optimisation."""

from __future__ import annotations

from pathlib import Path

import pytest
from resumable import build

from prefloop.project.project import Project
from prefloop.record import find_run
from prefloop.stages.align import align


def test_demonstrations_are_learnt_at_temperature_one_whatever_samples_are_drawn_at(tmp_path: Path) -> None:
    """Before the first update the supervised loss is the starting policy's: no sampling temperature changes it."""
    root = tmp_path / "project"
    build(root, with_reward=True)
    once = ["align.steps=1", "align.rollout.epochs=1", "align.rollout.minibatches=1", "align.ptx=0.5"]
    found = {}
    for temperature in (1.0, 0.5):
        with Project.open(root, [*once, f"align.rollout.temperature={temperature}"], quiet=True) as project:
            align(project)
            run = find_run(root, "align")
            assert run is not None
            found[temperature] = run.metrics()[1]
    assert found[1.0]["loss"] > 1.0
    assert found[0.5]["loss"] == pytest.approx(found[1.0]["loss"], rel=1e-6)
    assert found[0.5]["entropy"] != pytest.approx(found[1.0]["entropy"], rel=1e-3), "the samples are drawn at it"
