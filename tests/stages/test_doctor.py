"""The doctor finds what it is there to find, and calls a healthy project healthy."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sqlite3
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from prefloop.cli.main import run
from prefloop.engine.local import LocalEngine
from prefloop.kernels import native
from prefloop.models.folder import file_hashes
from prefloop.models.policy import Policy
from prefloop.project.project import ModelRef, Project
from prefloop.stages.doctor import invariants
from prefloop.stages.doctor.base import Check
from prefloop.stages.doctor.doctor import doctor
from prefloop.stages.doctor.machine import NEEDS

PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, make_tiny: Callable[[Path], Path]) -> Path:
    """Return a tiny project that has been through sft, sample, crowd and reward."""
    root = make_tiny(tmp_path_factory.mktemp("doctor"))
    for verb in ("sft", "sample", "crowd", "reward"):
        assert run([verb, "-C", str(root), "-q"]) == 0
    return root


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "copy"))


def test_a_healthy_project_passes_every_check(trained: Path) -> None:
    checks = doctor(trained)
    assert {c.name: c.detail for c in checks if c.status == "fail"} == {}
    names = [c.name for c in checks]
    for name in ("versions", "disk", "store", "runs", "sampler and learner", "first update", "batch splitting"):
        assert name in names
    assert "reward padding" in names and "reward save and load" in names


def test_it_says_whether_there_is_compiled_code(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert by_name(doctor(trained))["compiled code"].status == ("ok" if native.AVAILABLE else "warn")
    check = by_name(doctor(trained, ["model.dtype=bfloat16"]))["compiled code"]
    assert check.status == "warn" and "float32" in check.advice, "many times slower on a CPU"
    monkeypatch.setattr(invariants, "supports_packed", lambda model: False)
    assert "transformers computes" in by_name(doctor(trained))["compiled code"].detail
    monkeypatch.undo()
    monkeypatch.setattr(native, "AVAILABLE", False)
    check = by_name(doctor(trained))["compiled code"]
    assert check.status == "warn" and "C compiler" in check.advice


def test_outside_a_project_only_the_machine_is_checked() -> None:
    assert [c.name for c in doctor(None)] == ["versions", "processor", "disk", "sqlite"]


def test_the_versions_it_asks_for_are_those_of_the_package() -> None:
    table = tomllib.loads(PYPROJECT.read_text())["project"]
    stated = dict(d.split(">=") for d in table["dependencies"]) | {"python": table["requires-python"].strip(">=")}
    assert {name: stated[name] for name in NEEDS} == NEEDS


def test_the_doctor_changes_nothing(copied: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in copied.rglob("*") if p.is_file() and not p.name.startswith(".prefloop")}
    doctor(copied)
    after = {p: p.stat().st_mtime_ns for p in copied.rglob("*") if p.is_file() and not p.name.startswith(".prefloop")}
    assert {p for p in before if "prefloop.db" not in p.name and before[p] != after.get(p)} == set()


def test_a_wrong_setting_is_reported_not_raised(copied: Path) -> None:
    (copied / "prefloop.toml").write_text("[sft]\nepoch = 3\n")
    check = by_name(doctor(copied))["settings"]
    assert check.status == "fail" and '"epochs"' in check.detail


def test_an_edited_ranking_is_found(copied: Path) -> None:
    with sqlite3.connect(copied / "prefloop.db") as connection:
        connection.execute("UPDATE rankings SET tiers = '[[\"nobody\"]]' WHERE seq = 1")
    assert by_name(doctor(copied, with_model=False))["store"].status == "fail"


def test_a_run_that_is_done_without_a_result_is_found(copied: Path) -> None:
    (copied / "runs" / "reward-001" / "result.json").unlink()
    check = by_name(doctor(copied, with_model=False))["runs"]
    assert check.status == "fail" and "reward-001" in check.detail


def test_an_unreadable_manifest_is_found(copied: Path) -> None:
    (copied / "runs" / "reward-001" / "manifest.json").write_text("{")
    assert by_name(doctor(copied, with_model=False))["runs"].status == "fail"


def test_a_model_that_was_deleted_is_found(copied: Path) -> None:
    shutil.rmtree(copied / "runs" / "sft-001" / "model")
    checks = by_name(doctor(copied))
    assert checks["models"].status == "fail" and "sft-001" in checks["models"].detail
    assert checks["model"].status == "fail"


def test_another_process_at_work_is_a_warning(copied: Path) -> None:
    from prefloop.store import ProjectLock

    with ProjectLock(copied):
        assert by_name(doctor(copied, with_model=False))["lock"].status == "warn"


def test_a_project_before_its_first_import_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "prefloop.toml").write_text("")
    assert by_name(doctor(tmp_path))["store"].status == "warn"


def test_weights_that_are_nan_fail_every_check_that_reads_them(copied: Path) -> None:
    file = copied / "runs" / "sft-001" / "model" / "model.safetensors"
    save_file({k: torch.full_like(v, torch.nan) for k, v in load_file(file).items()}, file, {"format": "pt"})
    with Project.open(copied, quiet=True) as project:
        (row,) = project.store.models("policy")
        project.store.add_model(dataclasses.replace(row, files=file_hashes(file.parent)))  # Training made them so.
    checks = by_name(doctor(copied))
    for name in ("padding", "sampler and learner", "first update", "batch splitting"):
        assert checks[name].status == "fail", name


# -- each invariant, broken on purpose ---------------------------------------------------------------------------------


@pytest.fixture
def subject(trained: Path) -> Iterator[invariants._Subject]:
    with Project.open(trained, quiet=True) as project, ExitStack() as engines:
        row = project.store.latest_model("policy")
        assert row is not None
        yield invariants._Subject(project, ModelRef(row.version, str(trained / row.path), ""), engines)


def test_a_sampler_that_reports_other_logprobs_is_found(subject: invariants._Subject) -> None:
    assert invariants._sampler(subject, "x").status == "ok"
    subject.samples = [dataclasses.replace(s, logprobs=tuple(lp + 1e-3 for lp in s.logprobs)) for s in subject.samples]
    assert invariants._sampler(subject, "x").status == "fail"


def test_a_learner_at_another_temperature_is_found(subject: invariants._Subject) -> None:
    warm = Policy(subject.model, temperature=1.1)
    subject.engine = LocalEngine({"policy": warm, "reference": warm}, subject.tokenization, 0)
    assert invariants._sampler(subject, "x").status == "fail"
    assert invariants._first_step(subject, "x").status == "fail"


def test_a_reference_that_is_no_copy_is_found(subject: invariants._Subject) -> None:
    assert invariants._first_step(subject, "x").status == "ok"
    reference = subject.engine.models["reference"]
    with torch.no_grad():
        next(reference.parameters()).mul_(1.01)
    assert invariants._first_step(subject, "x").status == "fail"


def test_dropout_in_the_policy_is_found(subject: invariants._Subject) -> None:
    for module in subject.model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.5
    assert invariants._first_step(subject, "x").status == "fail"


def test_a_loss_that_is_divided_per_part_is_found(
    subject: invariants._Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This is the field's most repeated bug: a mean over each micro-batch instead of one over the whole."""
    assert invariants._splitting(subject, "x").status == "ok"
    right = invariants.Sft.loss

    def mean(self, out, batch):  # type: ignore[no-untyped-def]
        loss = right(self, out, batch)
        return dataclasses.replace(loss, total=loss.total / batch.action.sum())

    monkeypatch.setattr(invariants.Sft, "loss", mean)
    assert invariants._splitting(subject, "x").status == "fail"


def test_a_model_that_never_ends_is_found(subject: invariants._Subject) -> None:
    assert invariants._ending(subject, "x").status == "ok"
    subject.tokenization = dataclasses.replace(subject.tokenization, stop_ids=(), end_id=None)
    check = invariants._ending(subject, "x")
    assert check.status == "fail" and "eos_token_id" in check.advice


def test_a_reward_model_without_pad_token_is_found(copied: Path) -> None:
    import json

    folder = copied / "runs" / "reward-001" / "model"
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings.pop("pad_token")
    path.write_text(json.dumps(settings))
    with Project.open(copied, quiet=True) as project:
        (row,) = project.store.models("reward")
        # It is as if it had been saved so.
        project.store.add_model(dataclasses.replace(row, files=file_hashes(folder)))
    assert by_name(doctor(copied))["reward save and load"].status == "fail"


def test_a_reward_model_at_chance_is_a_warning(copied: Path) -> None:
    place = copied / "runs" / "reward-001" / "result.json"
    result = json.loads(place.read_text())
    for (low, high), status in (((0.4, 0.61), "warn"), ((0.53, 0.7), "ok")):
        measured = {"accuracy": 0.505, "low": low, "high": high, "pairs": 80, "prompts": 9}
        place.write_text(json.dumps(result | {"heldout": measured}))
        assert by_name(doctor(copied, with_model=False))["reward model"].status == status
    place.write_text(json.dumps(result | {"heldout": None}))
    assert "never been measured" in by_name(doctor(copied, with_model=False))["reward model"].detail


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ("len(answer)", "ok", "ranked pairs as people did"),
        ("-len(answer)", "fail", "prefers what people ranked lower"),
        ("1.0", "fail", "all alike"),
        ("random.random()", "warn", "when they are asked again"),
        ("len(answer) + 0.01 * random.random()", "ok", "ranked pairs as people did"),
        ("zlib.crc32(answer.encode()) % 97", "warn", "hardly agrees with people"),
        ("float('nan')", "fail", "gave nan"),
    ],
)
def test_the_scorer_of_align_is_asked_about_answers_that_people_ranked(
    copied: Path, body: str, status: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(copied)
    Path("mine.py").write_text(f"import random, zlib\n\ndef score(prompt, answer):\n    return {body}\n")
    check = by_name(doctor(copied, ["align.reward=mine.py:score"], with_model=False))["reward function"]
    assert check.status == status and said in f"{check.detail} {check.advice}"


def test_a_slow_scorer_is_warned_of_and_asked_about_a_few_answers(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefloop.stages.doctor.scorer.SLOW", -1.0)
    check = by_name(doctor(copied, ["align.reward=length"], with_model=False))["reward function"]
    assert check.status == "warn" and "s an answer" in check.detail and "a step waits for it" in check.advice
    assert int(check.detail.split(" scores ")[1].split()[0]) <= 4 * 8  # of four lists
