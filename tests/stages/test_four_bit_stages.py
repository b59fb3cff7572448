"""A project whose trunk is in 4 bits goes round the loop: exact at the start, exact after a stop, told by doctor."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from test_adapters import ADAPTERS, ONLINE, files_of, newest, stopped, went
from transformers import AutoModelForCausalLM

from prefloop.models.four_bit import Quantised
from prefloop.models.without_hub import without_hub_kernels
from prefloop.project.project import Project
from prefloop.project.project import load_policy as policy_of
from prefloop.stages.doctor.doctor import doctor
from prefloop.stages.plan import plan
from prefloop.stages.sft import sft
from prefloop.stages.train_reward import reward

with without_hub_kernels():
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: prefloop[bitsandbytes]")

IN_4BIT = "model.load_in_4bit=true"


@pytest.fixture(scope="module")
def world(tiny_with_reward: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project with a supervised policy and a reward model that were trained beside a trunk in 4 bits."""
    torch.set_num_threads(1)
    root = Path(shutil.copytree(tiny_with_reward, tmp_path_factory.mktemp("bits") / "world"))
    asked = [*ADAPTERS, IN_4BIT, "sft.epochs=1", "sft.lr=1e-2", "reward.lr=1e-2", "reward.epochs=1"]
    with Project.open(root, asked, quiet=True) as project:
        sft(project)
        reward(project)
    return root


def test_a_run_begins_at_its_reference_and_goes_on_to_the_same_bytes(world: Path, tmp_path: Path) -> None:
    straight, halted = (Path(shutil.copytree(world, tmp_path / name)) for name in ("straight", "halted"))
    run = went(straight, *ONLINE, IN_4BIT)
    assert set(run.manifest["computed_by"]["learning"].values()) == {"packed"}
    assert run.metrics()[0]["eval_kl"] == 0.0
    ratios = [line["first_ratio"] for line in run.metrics() if "first_ratio" in line]
    assert len(ratios) == 4 and set(ratios) == {1.0}
    stopped(halted, *ONLINE, IN_4BIT)
    went(halted, *ONLINE, IN_4BIT)
    assert files_of(newest(halted, "align")) == files_of(run)
    plain = AutoModelForCausalLM.from_pretrained(run.path / "model")
    assert not any(isinstance(part, Quantised) for part in plain.modules())


def test_doctor_and_plan_say_that_the_trunk_is_in_4_bits_and_every_stage_has_the_same_reference(world: Path) -> None:
    checks = {check.name: check for check in doctor(world, [*ADAPTERS, IN_4BIT])}
    assert "on a trunk in 4 bits; trained by packed code" in checks["adapter"].detail
    asked = ("first update", "batch splitting", "sampler and learner", "reward save and load")
    assert {checks[name].status for name in asked} == {"ok"}
    with Project.open(world, [*ADAPTERS, IN_4BIT], quiet=True) as project:
        trunk = project.trunks.causal(project.base().intact(), project.config.model)[0]
        alone = policy_of(project, project.base())[0]
        matrices = {name: part.weight for name, part in trunk.named_modules() if isinstance(part, Quantised)}
        assert matrices and all(torch.equal(alone.get_submodule(n).weight, w) for n, w in matrices.items())
        (stage,) = plan(project, ["align"], measured=False).stages
        assert [phase.phase for phase in stage.phases][0] == "loading"
        assert any("hours are measured without [model] load_in_4bit" in note for note in stage.notes)
