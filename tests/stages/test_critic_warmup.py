"""`[algorithms.ppo] critic_warmup`: at the beginning the critic learns, and the policy stays what it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from resumable import build

from prefloop.project.project import Project
from prefloop.record import find_run
from prefloop.stages.align import align

SETTINGS = ["align.steps=4", "align.rollout.prompts=4", "align.rollout.k=2", "align.max_tokens=6", "align.ptx=0.5",
            "align.weight_decay=0.1", "align.average=0", "align.evaluation.eval_every=1",
            "align.evaluation.eval_prompts=2", "algorithms.ppo.critic_warmup=2"]  # fmt: skip


@pytest.mark.parametrize("critic", ["separate", "head"])
def test_the_policy_stays_until_the_critic_is_warm_with_demonstrations_and_weight_decay_too(
    tmp_path: Path, critic: str
) -> None:
    root = tmp_path / "project"
    build(root, with_reward=True)
    with Project.open(root, [*SETTINGS, f"align.critic={critic}"], quiet=True) as project:
        align(project)
        run = find_run(root, "align")
        assert run is not None
        metrics = run.metrics()
    assert [line["eval_kl"] for line in metrics[:3]] == [0.0, 0.0, 0.0]
    assert metrics[3]["eval_kl"] != 0.0 != metrics[4]["eval_kl"]
    assert [line["grad_norm_policy"] > 0 for line in metrics[1:]] == [False, False, True, True]
    assert all(line["grad_norm_critic"] > 0 for line in metrics[1:])
    assert ["loss" in line for line in metrics[1:]] == [False, False, True, True]  # that of the demonstrations
