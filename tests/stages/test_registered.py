"""A model that changed since it was registered is refused by every verb that would load it, and by the doctor."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from prefloop.cli.main import run
from prefloop.errors import ModelError
from prefloop.project.project import Project
from prefloop.stages.doctor.doctor import doctor


@pytest.fixture(scope="module")
def looped(tmp_path_factory: pytest.TempPathFactory, make_tiny: Callable[[Path], Path]) -> Path:
    """Return a tiny project with a supervised policy, a reward model, and a policy that stands for an aligned one."""
    root = make_tiny(tmp_path_factory.mktemp("registered"))
    for verb in ("sft", "sample", "crowd", "reward"):
        assert run([verb, "-C", str(root), "-q"]) == 0
    with Project.open(root, quiet=True) as project, project.lock():
        (sft,) = project.store.models("policy")
        made = project.begin("align", "stands for one", {"round": 0})
        shutil.copytree(root / sft.path, made.path / "model")
        weights, snapshot = str(sft.weights_sha256), str(sft.snapshot_hash)
        project.register(made, "policy", project.ref(sft), weights, snapshot, {"round": 0})
        made.finish({"round": 0, "best_step": 1})
    return root


@pytest.fixture
def copied(looped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(looped, tmp_path / "copy"))


def flip(path: Path) -> None:
    """Flip one bit in the middle: it is among the weights, which stay readable."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("version", "verb"),
    [
        ("sft-001", ["sample", "--round", "0", "--set", "sample.k=2"]),
        ("sft-001", ["align", "--set", "align.steps=2"]),
        ("sft-001", ["align", "--algorithm", "dpo"]),
        ("sft-001", ["reward", "--set", "reward.epochs=1"]),
        ("sft-001", ["evaluate"]),
        ("reward-001", ["align", "--set", "align.steps=2"]),
        ("reward-001", ["align", "--algorithm", "grpo", "--set", "align.steps=2"]),
        ("reward-001", ["evaluate"]),
        ("reward-001", ["prioritise", "--set", "annotate.criterion=quality"]),
        ("reward-001", ["export", "reward", "--to", "out"]),
        ("align-001", ["evaluate"]),
        ("align-001", ["sample", "--round", "1"]),
        ("align-001", ["export", "policy", "--to", "out"]),
    ],
)
def test_a_flipped_bit_in_registered_weights_stops_what_would_load_them(
    copied: Path, capfd: pytest.CaptureFixture[str], version: str, verb: list[str]
) -> None:
    where = ["-C", str(copied)]
    flip(copied / "runs" / version / "model" / "model.safetensors")
    runs = sorted(p.name for p in (copied / "runs").iterdir())
    capfd.readouterr()
    assert run([*verb, *where, "-q"]) == ModelError.exit_code
    said = capfd.readouterr().err
    assert f"not what was registered as {version}: model.safetensors changed" in said
    assert [p for p in (copied / "runs").iterdir() if p.name not in runs and (p / "model").exists()] == []


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "generation_config.json"])
def test_a_changed_config_or_tokenizer_is_seen_too(copied: Path, name: str) -> None:
    path = copied / "runs" / "align-001" / "model" / name
    path.write_text(path.read_text() + "\n")
    with Project.open(copied, quiet=True) as project, pytest.raises(ModelError, match=f"{name} changed"):
        project.policy(1).intact()


def test_what_a_model_reads_may_not_be_lost_or_added_but_a_note_may(copied: Path) -> None:
    folder = copied / "runs" / "align-001" / "model"
    with Project.open(copied, quiet=True) as project:
        (folder / "README.md").write_text("my note")
        project.policy(1).intact()
        (folder / "added_tokens.json").write_text("{}")
        with pytest.raises(ModelError, match=r"added_tokens.json new"):
            project.policy(1).intact()
        (folder / "added_tokens.json").unlink()
        (folder / "tokenizer_config.json").unlink()
        with pytest.raises(ModelError, match=r"tokenizer_config.json missing"):
            project.policy(1).intact()
        shutil.rmtree(folder)
        with pytest.raises(ModelError, match="is gone"):
            project.policy(1).intact()


def test_the_doctor_names_the_file_that_changed(copied: Path) -> None:
    assert {c.name: c.status for c in doctor(copied, with_model=False)}["models"] == "ok"
    flip(copied / "runs" / "reward-001" / "model" / "model.safetensors")
    check = next(c for c in doctor(copied, with_model=False) if c.name == "models")
    assert check.status == "fail" and "reward-001: model.safetensors changed" in check.detail


def test_measuring_a_registered_reward_model_by_its_path_compares_it_too(
    copied: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "pairs.jsonl"
    data.write_text('{"prompt": "Say red.", "chosen": "The red cat.", "rejected": "No."}\n')
    folder = copied / "runs" / "reward-001" / "model"
    verb = ["evaluate", "reward", "--model", str(folder), "--data", str(data), "--json"]
    assert run(verb) == 0
    flip(folder / "model.safetensors")
    assert run(verb) == ModelError.exit_code
    assert "reward-001: model.safetensors changed" in capfd.readouterr().err


def test_a_path_that_leads_out_of_the_project_is_refused(copied: Path) -> None:
    with Project.open(copied, quiet=True) as project:
        (row,) = project.store.models("reward")
        for path in ("../elsewhere/model", "/elsewhere/model", "runs/../../model"):
            with pytest.raises(ModelError, match="outside of the project"):
                project.ref(dataclasses.replace(row, path=path))


def test_measuring_makes_no_store_in_a_folder_that_only_has_settings(
    copied: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "other"
    shutil.copytree(copied / "runs" / "reward-001" / "model", root / "model")
    (root / "prefloop.toml").write_text("")
    data = tmp_path / "pairs.jsonl"
    data.write_text('{"prompt": "Say red.", "chosen": "The red cat.", "rejected": "No."}\n')
    assert run(["evaluate", "reward", "--model", str(root / "model"), "--data", str(data), "--json"]) == 0
    assert sorted(p.name for p in root.iterdir()) == ["model", "prefloop.toml"]
