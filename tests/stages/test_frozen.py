"""`[align] frozen_dtype`: what is not trained may be kept in bfloat16; what is trained is not touched by it."""

from __future__ import annotations

from pathlib import Path

import pytest
from resumable import build

from prefloop.record import find_run
from prefloop.stages.align import align
from prefloop.stages.project import Project


def test_rewards_and_kl_move_a_little_and_the_policy_is_as_exact_as_before(tmp_path: Path) -> None:
    root = tmp_path / "project"
    build(root, with_reward=True)
    first: dict[str, dict[str, float]] = {}
    for dtype in ("float32", "bfloat16"):
        with Project.open(root, ["align.steps=2", f"align.frozen_dtype={dtype}"], quiet=True) as project:
            align(project)
            run = find_run(root, "align")
            assert run is not None
            first[dtype] = run.metrics()[0]
    exact, low = first["float32"], first["bfloat16"]
    assert exact["eval_kl"] == 0.0 and 0 < abs(low["eval_kl"]) < 0.1
    assert low["eval_reward"] != exact["eval_reward"]
    assert low["eval_reward"] == pytest.approx(exact["eval_reward"], abs=0.1)
    assert low["eval_sampler_mismatch"] < 1e-5 and low["eval_length"] == exact["eval_length"]
