"""`[align] frozen_dtype`: what is not trained may be kept in bfloat16; what is trained is not touched by it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from resumable import build

from prefloop.models.packed_forward import COMPILED_FROM
from prefloop.project.project import Project
from prefloop.record import find_run
from prefloop.stages.align import align
from prefloop.stages.train_reward import reward
from prefloop.training.reward_scores import make_scorer


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
    assert exact["kl_baseline"] == exact["eval_kl"] == 0.0
    assert 1e-4 < abs(low["kl_baseline"]) < 0.1, "what rounding did to the reference"
    assert low["eval_kl"] == pytest.approx(0.0, abs=1e-5), "and it is not the policy's doing"
    assert low["eval_reward"] != exact["eval_reward"]
    assert low["eval_reward"] == pytest.approx(exact["eval_reward"], abs=0.1)
    assert low["eval_sampler_mismatch"] < 1e-5 and low["eval_length"] == exact["eval_length"]


def test_what_rounding_did_to_the_reference_is_measured_where_the_policy_has_moved_already(tmp_path: Path) -> None:
    """In a second round the policy is not the reference: its KL stays, and only the rounding is taken out."""
    root = tmp_path / "project"
    build(root, with_reward=True)
    offline = ["align.algorithm=dpo", "align.lists=4", "align.passes=2", "align.lr=0.01"]
    with Project.open(root, offline, quiet=True) as project:
        align(project, 0)  # Its last step is its result, better or not.
        project.begun = 1  # As in `run`, nothing need be sampled.
        reward(project, 1)
    found = {}
    for dtype in ("float32", "bfloat16"):
        with Project.open(root, [f"align.frozen_dtype={dtype}", "align.steps=1"], quiet=True) as project:
            project.begun = 1
            align(project, 1)
            run = find_run(root, "align")
            assert run is not None
            found[dtype] = run.metrics()[0]
    assert found["float32"]["eval_kl"] > 0.05
    assert found["bfloat16"]["eval_kl"] == pytest.approx(found["float32"]["eval_kl"], abs=1e-5)


def test_the_kl_of_the_first_evaluation_is_zero_to_the_bit_however_many_tokens_it_reads(tmp_path: Path) -> None:
    """From 256 tokens on, frozen models are read by compiled code, which rounds differently."""
    root = tmp_path / "project"
    build(root, with_reward=True)
    many = ["align.steps=1", "align.evaluation.eval_prompts=64", "data.heldout=0.95", "align.max_tokens=40"]
    with Project.open(root, many, quiet=True) as project:
        align(project)
        run = find_run(root, "align")
        assert run is not None
        first = run.metrics()[0]
    assert 10 * first["eval_length"] > COMPILED_FROM
    assert first["eval_kl"] == 0.0 and first["eval_kl_k3"] == 0.0


def test_reward_models_are_loaded_as_the_project_says_of_models(tmp_path: Path) -> None:
    root = tmp_path / "project"
    build(root, with_reward=True)
    with Project.open(root, ["model.dtype=bfloat16", "model.chat=none"], quiet=True) as project:
        (judge,) = make_scorer(project, project.reward_models(0)).reward_models
        assert judge.model.model.dtype == torch.bfloat16 and not judge.tokenization.chat
