"""After a kill the same DPO command goes on to the same bytes, and one with other settings is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from resumable import build

from prefloop import record
from prefloop.errors import ConfigError
from prefloop.project.project import Project
from prefloop.record import Run
from prefloop.stages.align import align
from prefloop.stages.sft import sft
from prefloop.stages.train_reward import reward

DPO = ["align.algorithm=dpo", "align.lists=4", "align.passes=12", "align.checkpoint_every=3"]
SOURCE = Path(__file__).resolve().parents[2] / "src"


def checkpoint(root: Path) -> Path | None:
    return next(iter(sorted(root.glob("runs/align-001/checkpoints/step-*"))), None)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("changed") / "project"
    build(root, with_reward=False)
    return root


@pytest.fixture(scope="module")
def killed(base: Path) -> Path:
    """Return a copy of the project whose DPO was killed (SIGKILL) once a checkpoint was there."""
    root = base.with_name("killed")
    shutil.copytree(base, root)
    sets = [part for setting in DPO for part in ("--set", setting)]
    command = [sys.executable, "-m", "prefloop", "align", "-C", str(root), "-q", *sets]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while checkpoint(root) is None and process.poll() is None and time.monotonic() < until:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    said = process.communicate()[1]
    assert process.returncode == -signal.SIGKILL, said
    assert checkpoint(root) is not None and Run(root / "runs" / "align-001").status == "running"
    return root


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (["align.lr=0.002"], "align.lr: 0.003 then, 0.002 now"),
        (["align.passes=13"], "align.passes: 12.0 then, 13.0 now"),
        (["align.lists=5"], "align.lists: 4 then, 5 now"),
        (["align.evaluation.eval_every=5"], "align.evaluation.eval_every: 4 then, 5 now"),
        (["align.average=0.5"], "align.average: 0.9 then, 0.5 now"),
        (["align.optim=adamw_8bit"], "align.optim: 'adamw' then, 'adamw_8bit' now"),
        (["project.seed=4"], "project.seed: 3 then, 4 now"),
        (["data.heldout=0.4"], "data.heldout: 0.25 then, 0.4 now"),
        (["model.chat=none"], "model.chat: 'auto' then, 'none' now"),
        (["algorithms.dpo.beta=0.3"], "algorithms.dpo.beta: the default then, 0.3 now"),
        (["reward.annotators=majority"], "reward.annotators: 'all' then, 'majority' now"),
        (["align.lr=0.002", "align.clip_norm=0.5"], "align.clip_norm: 1.0 then, 0.5 now"),
    ],
)
def test_a_setting_that_changes_the_result_is_refused_with_both_values(
    killed: Path, changed: list[str], named: str
) -> None:
    with Project.open(killed, [*DPO, *changed], quiet=True) as project, pytest.raises(ConfigError) as error:
        align(project)
    said = str(error.value)
    assert named in said and "align-001 stopped half-way, after step" in said and "prefloop align --new" in said
    assert [run.name for run in record.runs(killed) if run.name.startswith("align")] == ["align-001"]
    assert checkpoint(killed) is not None


def test_what_changes_no_result_goes_on_to_the_bytes_of_a_run_left_in_peace(base: Path, killed: Path) -> None:
    straight, again = base.with_name("straight"), killed.with_name("again")
    shutil.copytree(base, straight)
    shutil.copytree(killed, again)
    with Project.open(straight, DPO, quiet=True) as project:
        align(project)
    neutral = ["align.checkpoint_every=11", "align.token_budget=9000", "project.name=other", "sft.lr=0.5"]
    with Project.open(again, [*DPO, *neutral], quiet=True) as project:
        outcome = align(project)
        registered = [m.weights_sha256 for m in project.store.models("policy")]
    assert outcome.run == "align-001" and not outcome.skipped
    for name in ("model/model.safetensors", "metrics.jsonl", "result.json"):
        one, other = (root / "runs" / "align-001" / name for root in (straight, again))
        assert one.read_bytes() == other.read_bytes(), name
    assert len(registered) == 1


def test_a_setting_that_a_run_had_and_that_has_its_default_now_is_refused_too(killed: Path) -> None:
    root = killed.with_name("before")
    shutil.copytree(killed, root)
    path = root / "runs" / "align-001" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["config"]["align"]["optim"], manifest["fingerprint"] = "adamw_8bit", "of those settings"
    path.write_text(json.dumps(manifest))
    said = "stopped half-way.*\n  align.optim: 'adamw_8bit' then, 'adamw' now"
    with Project.open(root, DPO, quiet=True) as project, pytest.raises(ConfigError, match=said):
        align(project)


def test_a_run_of_before_align_had_parts_goes_on_and_other_settings_are_still_refused(killed: Path) -> None:
    """Its manifest has all settings of [align] in one section."""
    root = killed.with_name("older")
    shutil.copytree(killed, root)
    path = root / "runs" / "align-001" / "manifest.json"
    manifest = json.loads(path.read_text())
    section = manifest["config"]["align"]
    section |= section.pop("rollout") | section.pop("evaluation")
    path.write_text(json.dumps(manifest))
    refused = pytest.raises(ConfigError, match=r"\n  align.evaluation.eval_every: 4 then, 5 now\n")
    with Project.open(root, [*DPO, "align.evaluation.eval_every=5"], quiet=True) as project, refused:
        align(project)
    with Project.open(root, DPO, quiet=True) as project:
        outcome = align(project)
    assert outcome.run == "align-001" and not outcome.skipped


def test_new_begins_another_run_and_the_first_is_not_asked_about_again(killed: Path) -> None:
    root = killed.with_name("anew")
    shutil.copytree(killed, root)
    short = [*DPO, "align.lr=0.002", "align.passes=1"]
    with Project.open(root, short, quiet=True, new=True) as project:
        assert align(project).run == "align-002"
    with Project.open(root, [*short, "align.lists=8"], quiet=True) as project:
        assert align(project).run == "align-003"


def test_another_algorithm_is_another_run(killed: Path) -> None:
    root = killed.with_name("another")
    shutil.copytree(killed, root)
    with Project.open(root, ["reward.epochs=1"], quiet=True) as project:
        reward(project)
    with Project.open(root, ["align.steps=1"], quiet=True) as project:
        assert align(project).run == "align-002"


def test_a_run_that_kept_nothing_is_not_asked_about(base: Path) -> None:
    root = base.with_name("early")
    shutil.copytree(base, root)
    with Project.open(root, ["sft.epochs=1"], quiet=True) as project:
        project.begin("sft", "an earlier fingerprint", {})  # It stopped before its first checkpoint.
        assert sft(project).run == "sft-002"
