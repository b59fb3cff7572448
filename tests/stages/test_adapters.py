"""A project that trains adapters goes round the loop: exact at the start, exact after a stop, read by everything."""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from prefloop import load_policy, record
from prefloop.engine import checkpoint as checkpoints
from prefloop.errors import ConfigError
from prefloop.models.adapter_folder import is_adapter
from prefloop.models.folder import file_hash
from prefloop.models.lora import has_adapter
from prefloop.models.reward import RewardModel
from prefloop.project.project import Project
from prefloop.project.project import load_policy as policy_of
from prefloop.stages.align import align
from prefloop.stages.doctor.doctor import doctor
from prefloop.stages.evaluate import evaluate
from prefloop.stages.run import run as whole_loop
from prefloop.stages.sft import sft
from prefloop.stages.train_reward import reward
from prefloop.training import loop, policy_setup
from prefloop.training.learning_rates import rate

ADAPTERS = ["model.adapter=lora", "model.lora.rank=2"]
ONLINE = ["align.algorithm=ppo", "align.steps=4", "align.rollout.prompts=3", "align.rollout.k=2", "align.lr=1e-2",
          "align.max_tokens=6", "align.checkpoint_every=2", "align.evaluation.eval_every=2"]  # fmt: skip
OFFLINE = ["align.algorithm=dpo", "align.lists=6", "align.passes=2", "align.lr=1e-2", "align.max_tokens=6",
           "align.checkpoint_every=2", "align.evaluation.eval_every=2"]  # fmt: skip
STALE = [*ONLINE, "align.rollout.staleness=1"]


def newest(root: Path, stage: str) -> record.Run:
    return [run for run in record.runs(root) if run.manifest["stage"] == stage][-1]


def files_of(run: record.Run) -> dict[str, str]:
    """Return the hash of each file of a run, but for those that hold times or the places of folders."""
    apart = ("timings.jsonl", "manifest.json", "adapter_config.json")
    return {
        str(path.relative_to(run.path)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(run.path.rglob("*"))
        if path.is_file() and path.name not in apart
    }


def went(root: Path, *overrides: str, stage: Callable[[Project, int], Any] = align, round: int = 0) -> record.Run:
    with Project.open(root, [*ADAPTERS, *overrides], quiet=True) as project:
        stage(project, round)
    return newest(root, "align")


@pytest.fixture(scope="module")
def world(tiny_with_reward: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project with a supervised policy and a reward model that were trained as adapters."""
    torch.set_num_threads(1)
    root = Path(shutil.copytree(tiny_with_reward, tmp_path_factory.mktemp("adapters") / "world"))
    with Project.open(root, [*ADAPTERS, "sft.epochs=1", "sft.lr=1e-2", "reward.lr=1e-2"], quiet=True) as project:
        sft(project)
        reward(project)
    return root


@pytest.fixture
def copied(world: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(world, tmp_path / "copy"))


def stopped(root: Path, *overrides: str) -> None:
    """Run align until its checkpoint of step 2 is there."""
    real = checkpoints.save_checkpoint

    def stop(folder: Path, done: int, *rest: Any) -> None:
        real(folder, done, *rest)
        if done == 2:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(loop, "save_checkpoint", stop)
        went(root, *overrides)


@pytest.mark.parametrize("settings", [ONLINE, STALE, OFFLINE], ids=["ppo", "stale", "dpo"])
def test_a_run_of_adapters_begins_at_its_reference_and_goes_on_to_the_same_bytes(
    world: Path, copied: Path, tmp_path: Path, settings: list[str]
) -> None:
    halted = Path(shutil.copytree(world, tmp_path / "halted"))
    straight = went(copied, *settings)
    said = straight.manifest["computed_by"]
    assert set(said["learning"].values()) == {"packed"} and said["adapters"]["policy"] == "rank 2"
    if settings is not OFFLINE:
        assert straight.metrics()[0]["eval_kl"] == 0.0
    stopped(halted, *settings)
    before = Path(shutil.copytree(halted, tmp_path / "forgetful"))
    tensors = checkpoints.load_checkpoint(newest(halted, "align").path / "checkpoints")
    assert tensors is not None and all("lora_" in name for name in tensors.files["policy"])
    went(halted, *settings)
    assert files_of(newest(halted, "align")) == files_of(straight)
    real = checkpoints.load_checkpoint

    def load(folder: Path) -> Any:
        found = real(folder)
        return found and replace(found, files={**found.files, "policy.adam": {}})

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loop, "load_checkpoint", load)
        went(before, *settings)
    assert files_of(newest(before, "align")) != files_of(straight), "the comparison sees nothing"


def test_four_models_of_a_run_stand_on_the_weights_of_one(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    real = policy_setup.make_engine

    def make(models: Any, *rest: Any, **how: Any) -> Any:
        seen.update(models)
        return real(models, *rest, **how)

    scores = RewardModel.forward
    judges: list[Any] = []

    def forward(self: RewardModel, rows: Any) -> Any:
        judges.append(self)
        return scores(self, rows)

    monkeypatch.setattr(policy_setup, "make_engine", make)
    monkeypatch.setattr(RewardModel, "forward", forward)
    went(copied, *ONLINE)
    trunk = {p.data_ptr() for name, p in seen["reference"].named_parameters() if "lora_" not in name}
    for model in (seen["policy"], seen["critic"], judges[0]):
        own = {name for name, p in model.named_parameters() if p.data_ptr() not in trunk}
        assert own and all("lora_" in name or "score" in name for name in own)
    assert len(trunk) > 5


def test_the_next_round_goes_on_with_the_adapter_and_the_same_reference(copied: Path) -> None:
    first = went(copied, *ONLINE)
    assert first.result is not None and first.result["best_step"] > 0, "otherwise round 1 starts from the reference"
    with Project.open(copied, [*ADAPTERS, *ONLINE], quiet=True) as project:
        policy, _ = policy_of(project, project.policy(1), learns=True)
        reference, _ = project.trunks.causal(project.reference().intact(), project.config.model)
        assert policy.standing.trunk is reference.standing.trunk
        ours, theirs = dict(policy.named_parameters()), dict(reference.named_parameters())
        assert any(not torch.equal(ours[name], theirs[name]) for name in ours if "lora_" in name)
        found = evaluate(project, 0)
    assert found.round == 0


def test_what_is_published_is_an_ordinary_model_for_everything_else(copied: Path) -> None:
    run = went(copied, *ONLINE)
    folder = run.path / "model"
    assert not is_adapter(folder) and is_adapter(folder / "adapter")
    assert not has_adapter(AutoModelForCausalLM.from_pretrained(folder))
    ours, alone = (load_policy(source, device="cpu") for source in (folder, folder / "adapter"))
    assert ours.generate(["Say red cat."], k=2, max_tokens=8) == alone.generate(["Say red cat."], k=2, max_tokens=8)
    with Project.open(copied, ONLINE, quiet=True) as project:  # without adapters
        assert not has_adapter(policy_of(project, project.policy(1), learns=True)[0])


def test_an_adapter_can_be_the_model_that_a_project_starts_from(copied: Path) -> None:
    adapter = newest(copied, "sft").path / "model" / "adapter"
    mine = ['model.init="pretrained"', f'model.path="{adapter}"']
    with Project.open(copied, mine, quiet=True) as project:
        base = project.base()
        assert base.weights == file_hash(adapter)
        model, _ = policy_of(project, base)
        assert not has_adapter(model) and all(p.requires_grad for p in model.parameters())
    with Project.open(copied, [*mine, *ADAPTERS], quiet=True) as project:
        policy, _ = policy_of(project, project.base(), learns=True)
        learns = {name for name, p in policy.named_parameters() if p.requires_grad}
        assert learns and all("lora_" in name for name in learns)
    weights = copied / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert file_hash(adapter) != base.weights, "its base has changed"


def test_an_adapter_alone_changes_what_training_stages_did_and_no_other(copied: Path) -> None:
    prints = []
    for overrides in ([], ADAPTERS, [*ADAPTERS, "model.lora.rank=3"]):
        with Project.open(copied, overrides, quiet=True) as project:
            config = project.config
            prints.append([project.fingerprint("x", part, {}) for part in (config.sample, config.sft, config.reward)])
    sampled, tuned, rewarded = map(set, zip(*prints, strict=True))
    assert (len(sampled), len(tuned), len(rewarded)) == (1, 3, 3)


@pytest.mark.parametrize(
    ("override", "stage", "said"),
    [
        ("reward.freeze=1", reward, "reward.freeze = 1 would have no effect: .* freezes all but the adapters"),
        ('align.frozen_dtype="bfloat16"', align, "share one trunk"),
        ("align.frozen_offload=true", align, "share the trunk that the policy needs"),
        ("align.reference_ema=0.5", align, "the reference becomes the policy"),
    ],
)
def test_a_setting_that_adapters_make_useless_is_refused_by_the_stage_that_it_is_for_alone(
    copied: Path, override: str, stage: Any, said: str
) -> None:
    before = set(copied.glob("runs/*"))
    moves = ["align.reference_refresh=2"] if "reference_ema" in override else []
    quick = [*ADAPTERS, *ONLINE, "align.steps=1", *moves, override]
    with Project.open(copied, [*quick, f'run.stages=["sft", "{stage.__name__}"]'], quiet=True) as project:
        for refusing in (stage, whole_loop):
            with pytest.raises(ConfigError, match=said):
                refusing(project)
        assert set(copied.glob("runs/*")) == before, "also run refuses it before it begins"
        if stage is reward:
            assert align(project).steps == 1


def test_settings_of_adapters_are_refused_where_all_weights_learn(copied: Path) -> None:
    with pytest.raises(ConfigError, match='adapter = "none" trains all weights'):
        Project.open(copied, ["model.lora.rank=4"], quiet=True)


def test_the_doctor_tries_the_adapter_and_says_by_what_it_is_computed(copied: Path) -> None:
    checks = {check.name: check for check in doctor(copied, ADAPTERS)}
    assert "rank 2" in checks["adapter"].detail and "packed" in checks["adapter"].detail
    assert {
        c.status for name, c in checks.items() if name in ("first update", "batch splitting", "sampler and learner")
    } == {"ok"}


def test_an_adapter_that_goes_on_keeps_its_rank_and_says_so(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Project.open(copied, [*ADAPTERS, "model.lora.rank=5"]) as project:
        model, _ = policy_of(project, project.reference(), learns=True)
        rate(project, None, "policy", model)
    said = capsys.readouterr().err
    assert "rank = 5 is for new adapters; the policy goes on with one of rank 2" in said
    assert "for an adapter of rank 2 of a model of width 16" in said


def test_without_peft_the_error_names_the_extra(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with Project.open(copied, ADAPTERS, quiet=True) as project, pytest.raises(ConfigError, match=r"prefloop\[lora\]"):
        policy_of(project, project.reference(), learns=True)


def test_a_moving_reference_becomes_the_policy(copied: Path) -> None:
    run = went(copied, *ONLINE, "align.algorithm=rloo", "align.reference_refresh=2")
    third = run.metrics()[3]
    assert third["kl_refreshed"] == pytest.approx(0.0, abs=1e-5) and abs(third["kl"]) > 1e-4
