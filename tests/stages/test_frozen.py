"""`[align] frozen_dtype`: what is not trained may be kept in bfloat16; what is trained is not touched by it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from resumable import build

from prefloop.record import find_run
from prefloop.stages.align import align
from prefloop.stages.project import Project
from prefloop.stages.train_policy import make_scorer


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


def test_reward_models_are_loaded_as_the_project_says_of_models(tmp_path: Path) -> None:
    root = tmp_path / "project"
    build(root, with_reward=True)
    with Project.open(root, ["model.dtype=bfloat16", "model.chat=none"], quiet=True) as project:
        (judge,) = make_scorer(project, project.reward_models(0)).judges
        assert judge.model.model.dtype == torch.bfloat16 and not judge.codec.chat
