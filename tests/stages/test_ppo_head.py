"""`[align] critic = "head"`: a whole run of PPO whose values come from a head on the policy, and no second network."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from prefloop.engine import checkpoint as checkpoints
from prefloop.models.reward import Critic
from prefloop.project.project import Project
from prefloop.record import Run, find_run
from prefloop.stages.align import align
from prefloop.training import loop

SETTINGS = ["align.critic=head", "align.steps=4", "align.rollout.prompts=4", "align.rollout.k=2", "align.max_tokens=6",
            "align.lr=1e-2", "align.average=0.5", "align.checkpoint_every=2", "align.evaluation.eval_every=4",
            "align.evaluation.eval_prompts=4", "algorithms.ppo.whiten_advantages=false"]  # fmt: skip


def went(root: Path, *more: str) -> tuple[Run, dict[str, str]]:
    """Return the run, and a hash of each of its files but for those that hold times."""
    with Project.open(root, [*SETTINGS, *more], quiet=True) as project:
        align(project, 0)
    run = find_run(root, "align")
    assert run is not None
    files = [p for p in sorted(run.path.rglob("*")) if p.is_file() and p.name not in ("timings.jsonl", "manifest.json")]
    return run, {str(p.relative_to(run.path)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def straight(tiny_with_reward: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, dict[str, str]]:
    torch.set_num_threads(1)
    root = Path(shutil.copytree(tiny_with_reward, tmp_path_factory.mktemp("headed") / "project"))
    with pytest.MonkeyPatch.context() as patched:

        def refused(*args: Any) -> None:
            raise AssertionError("a second network is made")

        patched.setattr(Critic, "__init__", refused)
        return went(root)


def test_a_run_begins_at_the_reference_and_its_head_learns(straight: tuple[Run, dict[str, str]]) -> None:
    first, *steps = straight[0].metrics()
    assert first["eval_kl"] == 0.0 and steps[0]["kl"] == pytest.approx(0.0, abs=1e-5)
    assert steps[0]["first_ratio"] == pytest.approx(1.0, abs=1e-5)
    assert steps[0]["explained_variance"] == pytest.approx(0.0, abs=1e-5), "it says 0 of all"
    assert all(step["grad_norm_critic"] > 0 for step in steps) and steps[-1]["value_mean"] != 0.0
    assert straight[0].manifest["computed_by"]["scoring"]["critic"] == "packed"


@pytest.mark.parametrize("forgotten", [None, "critic", "critic.adam"])
def test_a_run_that_is_taken_up_comes_to_the_same_bytes_and_not_without_its_head(
    straight: tuple[Run, dict[str, str]], tiny_with_reward: Path, tmp_path: Path, forgotten: str | None
) -> None:
    root = Path(shutil.copytree(tiny_with_reward, tmp_path / "project"))
    real_save, real_load = checkpoints.save_checkpoint, checkpoints.load_checkpoint

    def stop(at: Path, done: int, *rest: Any) -> None:
        real_save(at, done, *rest)
        if done == 2:
            raise KeyboardInterrupt

    def load(at: Path) -> checkpoints.Checkpoint:
        found = real_load(at)
        assert found is not None and found.step == 2
        if forgotten is None:
            return found
        blank = (
            {} if forgotten == "critic.adam" else {n: torch.zeros_like(t) for n, t in found.files[forgotten].items()}
        )
        return replace(found, files={**found.files, forgotten: blank})

    with pytest.MonkeyPatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(loop, "save_checkpoint", stop)
        went(root)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loop, "load_checkpoint", load)
        _, files = went(root)
    assert (files == straight[1]) == (forgotten is None)
    assert files.keys() == straight[1].keys()


def test_samples_may_be_drawn_ahead(tiny_with_reward: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(tiny_with_reward, tmp_path / "project"))
    run, _ = went(root, "align.rollout.staleness=1", "align.checkpoint_every=4")
    steps = run.metrics()[1:]
    assert [step["staleness"] for step in steps] == [0, 1, 1, 1]
    assert all(step["stale_kl"] > 0 and step["grad_norm_critic"] > 0 for step in steps[1:])
