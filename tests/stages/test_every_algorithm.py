"""Every algorithm of the registry goes through one small run: it resumes exactly, and logs what all of its kind log."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from prefloop import record
from prefloop.algorithms.registry import kind_of, make, names, options_of
from prefloop.engine import checkpoint as checkpoints
from prefloop.project.project import Project
from prefloop.report.metrics import explain
from prefloop.stages.align import align
from prefloop.training import loop

DOCS = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
SETTINGS = {
    # Two minibatches of three prompts: the last one is smaller. The samples of `prefloop sample` had another top_p.
    "online": [
        "align.steps=3",
        "align.rollout.prompts=3",
        "align.rollout.k=2",
        "align.rollout.minibatches=2",
        "align.rollout.temperature=0.7",
        "sample.top_p=0.3",
    ],
    "offline": ["align.lists=11", "align.passes=1"],
}
BOTH = ["align.max_tokens=6", "align.checkpoint_every=2", "align.evaluation.eval_every=2"]
# What each algorithm of a kind logs at every step, and at every evaluation.
EVALUATED = {"eval_kl", "eval_length", "eval_ended", "eval_entropy", "eval_distinct_2", "eval_repetition"}
COMMON = {
    "online": (
        {"sequences", "reward", "reward_std", "reward_max", "kl", "kl_k3", "entropy", "length", "ended"}
        | {"grad_norm_policy", "skipped"},
        EVALUATED | {"eval_reward", "eval_win_rate"},
    ),
    "offline": ({"examples", "loss", "accuracy", "grad_norm_policy", "skipped"}, EVALUATED | {"heldout_accuracy"}),
}


@dataclass(frozen=True)
class Runs:
    """Holds one algorithm's runs: left in peace, stopped and taken up again, and taken up without a part of its state.

    forgetful: {what was forgotten: what the run came to}
    """

    name: str
    metrics: list[dict[str, Any]]
    straight: dict[str, str]
    resumed: dict[str, str]
    forgetful: dict[str, dict[str, str]]
    top_p: set[float]


def settings_of(name: str) -> list[str]:
    known = options_of(make(name))
    asked = {"kl": 0.05, "kl_target": 0.01, "kl_horizon": 20, "threshold": -9}  # Below -9 there is no reward.
    options = [f"algorithms.{name}.{key}={value}" for key, value in asked.items() if key in known]
    return [f"align.algorithm={name}", *BOTH, *SETTINGS[kind_of(name)], *options]


def needs_of(name: str) -> frozenset[str]:
    found: frozenset[str] = getattr(make(name, {"kl": 0.05} if "kl" in options_of(make(name)) else {}), "needs", set())
    return found


def run_of(root: Path) -> record.Run:
    (found,) = [run for run in record.runs(root) if run.manifest["stage"] == "align"]
    return found


def files_of(root: Path) -> dict[str, str]:
    """Return the hash of each file of the run, but for those that hold times."""
    folder = run_of(root).path
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("timings.jsonl", "manifest.json")
    }


def went(root: Path, name: str) -> dict[str, str]:
    with Project.open(root, settings_of(name), quiet=True) as project:
        align(project, 0)
    return files_of(root)


def without(what: str, found: checkpoints.Checkpoint) -> checkpoints.Checkpoint:
    """Return a checkpoint that forgets one item: it begins as in a new run."""
    if what == "moments":
        return replace(found, files={**found.files, "policy.adam": {}})
    progress = found.state["progress"]
    first = {"coefficient": {"algorithm": {**progress["algorithm"], "kl": 0.05}}, "baselines": {"baselines": {}}}
    return replace(found, state={**found.state, "progress": {**progress, **first[what]}})


@pytest.fixture(scope="module", params=names("online", "offline"))
def runs(
    request: pytest.FixtureRequest, tiny_with_reward: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Runs]:
    name, folder = request.param, tmp_path_factory.mktemp(request.param)
    torch.set_num_threads(1)
    roots = {key: Path(shutil.copytree(tiny_with_reward, folder / key)) for key in ("straight", "stopped")}
    straight = went(roots["straight"], name)
    real_save, real_load = checkpoints.save_checkpoint, checkpoints.load_checkpoint

    def stop(root: Path, done: int, *rest: Any) -> None:
        real_save(root, done, *rest)
        if done == 2:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(loop, "save_checkpoint", stop)
        went(roots["stopped"], name)
    forgotten = ["moments", *(["coefficient"] if "kl_target" in options_of(make(name)) else [])]
    forgotten += ["baselines"] if "baseline" in needs_of(name) else []
    forgetful = {}
    for what in forgotten:
        root = Path(shutil.copytree(roots["stopped"], folder / what))

        def load(at: Path, what: str = what) -> checkpoints.Checkpoint:
            found = real_load(at)
            assert found is not None and found.step == 2
            return without(what, found)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(loop, "load_checkpoint", load)
            forgetful[what] = went(root, name)
    resumed = went(roots["stopped"], name)
    with Project.open(roots["straight"], quiet=True) as project:
        drawn = {c.sampling["top_p"] for _, c in project.store.rollouts(run_of(roots["straight"]).name) if c.sampling}
    yield Runs(name, run_of(roots["straight"]).metrics(), straight, resumed, forgetful, drawn)
    shutil.rmtree(folder)


def test_a_run_that_is_taken_up_comes_to_the_same_bytes(runs: Runs) -> None:
    assert {"metrics.jsonl", "result.json"} < runs.straight.keys()
    assert any(name.endswith(".safetensors") for name in runs.straight)
    assert runs.resumed == runs.straight


def test_a_run_that_forgets_one_item_of_its_state_does_not(runs: Runs) -> None:
    """This is the negative control: the comparison above can fail."""
    for what, files in runs.forgetful.items():
        assert files.keys() == runs.straight.keys() and files != runs.straight, what


def test_every_metric_is_documented_with_its_meaning_and_healthy_range(runs: Runs) -> None:
    text = DOCS.read_text(encoding="utf-8")
    for name in sorted({name for line in runs.metrics for name in line} - {"step"}):
        metric = explain(name)
        assert metric is not None, f"{name} is explained nowhere"
        assert metric.meaning and metric.healthy and metric.source
        assert re.search(rf"^\| `{re.escape(metric.name)}` \|", text, re.MULTILINE), name


def test_all_algorithms_of_a_kind_log_the_same_names(runs: Runs) -> None:
    steps, evaluations = COMMON[kind_of(runs.name)]
    if kind_of(runs.name) == "online" and "reference" not in needs_of(runs.name):
        steps = steps - {"kl", "kl_k3"}  # The evaluations measure them.
    for line in runs.metrics:
        if line["step"]:
            assert steps - line.keys() == set()
            assert all(line[name] is not None for name in steps), "they are finite"
        if line["step"] % 2 == 0:
            assert {name for name in evaluations - line.keys() if line["step"] or name.startswith("eval_")} == set()


def test_before_anything_is_learnt_ratio_and_kl_are_those_of_the_reference(runs: Runs) -> None:
    """Samples are drawn at temperature 0.7, and the learner reads them at the same one, from the whole vocabulary."""
    if kind_of(runs.name) == "offline":
        pytest.skip("it draws no samples to learn from")
    assert runs.metrics[0]["eval_kl"] == 0.0
    if runs.name != "online_dpo":  # It has no ratio.
        assert runs.metrics[1]["first_ratio"] == pytest.approx(1.0, abs=1e-5)
    if "reference" in needs_of(runs.name):
        assert runs.metrics[1]["kl"] == pytest.approx(0.0, abs=1e-5)
    assert runs.top_p == {1.0}, "[sample] top_p is not for what is learnt from"
