"""A reference that follows the policy prices the KL; the KL of evaluations is from where the round began."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from prefloop import record
from prefloop.engine import checkpoint as checkpoints
from prefloop.errors import ConfigError
from prefloop.project.project import Project
from prefloop.stages.align import align
from prefloop.training import loop

SETTINGS = ["align.algorithm=rloo", "align.steps=4", "align.lr=3e-3", "align.rollout.prompts=3", "align.rollout.k=2",
            "align.max_tokens=6", "align.checkpoint_every=2", "align.evaluation.eval_every=2"]  # fmt: skip
OFFLINE = ["align.algorithm=dpo", "align.lists=6", "align.passes=3", "align.lr=3e-3", "align.max_tokens=6",
           "align.checkpoint_every=2", "align.evaluation.eval_every=2"]  # fmt: skip
FOLLOWS = ["align.reference_refresh=2", "align.reference_ema=0.5"]


def went(root: Path, *overrides: str, settings: list[str] = SETTINGS) -> tuple[dict[str, str], list[dict[str, Any]]]:
    with Project.open(root, [*settings, *overrides], quiet=True) as project:
        align(project, 0)
    (run,) = [run for run in record.runs(root) if run.manifest["stage"] == "align"]
    files = {
        str(p.relative_to(run.path)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in run.path.rglob("*.safetensors")
    }
    return files, run.metrics()


@pytest.fixture
def copied(tiny_with_reward: Path, tmp_path: Path) -> Any:
    torch.set_num_threads(1)
    return lambda name: Path(shutil.copytree(tiny_with_reward, tmp_path / name))


def test_at_a_refresh_the_price_begins_at_0_again_and_the_distance_of_the_run_does_not(copied: Any) -> None:
    _, metrics = went(copied("hard"), "align.reference_refresh=2")
    first, second, third, fourth = metrics[1:]
    assert first["kl_refreshed"] == pytest.approx(first["kl"], abs=1e-6)
    assert second["kl_refreshed"] == pytest.approx(second["kl"], abs=1e-6) and abs(second["kl"]) > 1e-4
    assert third["kl_refreshed"] == pytest.approx(0.0, abs=1e-5) and abs(third["kl"]) > 1e-4
    assert abs(fourth["kl_refreshed"]) > 1e-6 and abs(fourth["kl_refreshed"] - fourth["kl"]) > 1e-4
    assert abs(metrics[-1]["eval_kl"]) > 1e-4
    _, frozen = went(copied("frozen"))
    assert [line["kl"] for line in frozen[1:4]] == [line["kl"] for line in metrics[1:4]], "until it has moved"
    assert "kl_refreshed" not in frozen[1]


def test_offline_implicit_rewards_begin_at_0_again_where_the_reference_has_become_the_policy(copied: Any) -> None:
    """The loss is of the reference that follows; the store keeps what the one that stays says, and held-out lists are
    measured from it.
    """
    root = copied("hard")
    _, metrics = went(root, "align.reference_refresh=2", settings=OFFLINE)
    first, second, third, *_ = metrics
    assert abs(second["implicit_reward"]) > 1e-4
    assert third["implicit_reward"] == pytest.approx(0.0, abs=1e-5) and third["accuracy"] == 0.5
    _, stays = went(copied("stays"), settings=OFFLINE)
    assert [line["loss"] for line in stays[:2]] == pytest.approx([first["loss"], second["loss"]], abs=1e-6)
    assert stays[1]["heldout_accuracy"] == second["heldout_accuracy"] and abs(stays[2]["implicit_reward"]) > 1e-4
    with Project.open(root, [*OFFLINE, "align.lists=7"], quiet=True) as project:
        align(project, 0)
    *_, again = [run for run in record.runs(root) if run.manifest["stage"] == "align"]
    assert again.metrics()[0]["implicit_reward"] == pytest.approx(0.0, abs=1e-5), (
        "what the store kept is the reference's"
    )


@pytest.mark.parametrize("settings", [SETTINGS, OFFLINE], ids=["rloo", "dpo"])
def test_the_reference_that_follows_is_in_the_checkpoint(copied: Any, settings: list[str]) -> None:
    straight, stopped = copied("straight"), copied("stopped")
    files, metrics = went(straight, *FOLLOWS, settings=settings)
    real_save, real_load = checkpoints.save_checkpoint, checkpoints.load_checkpoint

    def stop(root: Path, done: int, *rest: Any) -> None:
        real_save(root, done, *rest)
        if done == 2:
            raise KeyboardInterrupt

    def forget(root: Path) -> Any:
        found = real_load(root)
        assert found is not None and found.step == 2
        return replace(found, files={**found.files, "refreshed": found.files["policy"]})

    with pytest.MonkeyPatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(loop, "save_checkpoint", stop)
        went(stopped, *FOLLOWS, settings=settings)
    forgetful = Path(shutil.copytree(stopped, stopped.with_name("forgetful")))
    assert went(stopped, *FOLLOWS, settings=settings) == (files, metrics)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loop, "load_checkpoint", forget)
        assert went(forgetful, *FOLLOWS, settings=settings)[0] != files, "this is the negative control"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["algorithms.rloo.kl=0"], "measures nothing from a reference"),
        (["align.frozen_dtype=bfloat16"], "reference_refresh moves it"),
        (["align.reference_refresh=0"], "reference_ema = 0.5 would have no effect"),
    ],
)
def test_a_reference_that_cannot_follow_is_refused(tiny_with_reward: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        went(tiny_with_reward, *FOLLOWS, *overrides)
