"""A judge that is not trained on sets the KL that a run aims at, below the distance at which it turns over."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prefloop import record
from prefloop.engine import checkpoint as checkpoints
from prefloop.errors import ConfigError
from prefloop.project.project import Project
from prefloop.stages.align import align
from prefloop.training import loop
from prefloop.training.kl_calibration import FEWEST, SAFETY, KlCalibration, lower_end

PROMPTS = 64


def start(coefficient: float = 0.05) -> KlCalibration:
    return KlCalibration.starting(coefficient, budget=25.0, low=1e-4, high=10.0)


def looked_at(state: KlCalibration, distances: Any, curve: Any, seed: int, noise: float = 1.0) -> KlCalibration:
    """Return what follows from evaluations at these distances, where the judge's mean follows the curve."""
    rng = np.random.default_rng(seed)
    for step, d in enumerate(distances, 1):
        kl = d**2 + d * rng.normal(size=PROMPTS)
        state = state.look(step, kl.tolist(), (curve(d) + noise * rng.normal(size=PROMPTS)).tolist(), seed)
    return state


def gao(turn: float, height: float = 2.0) -> Any:
    """Return the curve of reinforcement learning with its peak at a distance: d (alpha - beta ln d)."""
    beta = height / turn
    return lambda d: d * (beta * (1 + math.log(turn)) - beta * math.log(max(d, 1e-6)))


@pytest.mark.parametrize("turn", [1.5, 2.5])
def test_the_target_is_below_the_distance_at_which_the_judge_turns_over(turn: float) -> None:
    found = [looked_at(start(), np.linspace(0.3, 2 * turn, 14), gao(turn), seed) for seed in range(8)]
    assert all(state.turn is not None and state.certain > 0.9 and state.past > 0.9 for state in found)
    targets = [state.target for state in found]
    assert np.median(targets) == pytest.approx((SAFETY * turn) ** 2, rel=0.15)
    assert all(state.reason.startswith("the judge turns over at") for state in found)


def test_where_no_turning_point_is_seen_the_target_stays_the_budget() -> None:
    """Neither a judge that goes on rising nor one that tells nothing stops a run."""
    rising = [looked_at(start(), np.linspace(0.3, 3.0, 12), lambda d: 0.8 * d, seed) for seed in range(20)]
    assert sum(state.target < 25.0 for state in rising) <= 2
    few = looked_at(start(), (0.1, 0.2, 0.5, 1.0, 2.0), gao(0.5), 0)
    assert few.target == 25.0 and f"needs {FEWEST} evaluations" in few.reason


def test_a_turning_point_that_is_not_seen_again_is_forgotten() -> None:
    early = looked_at(start(), np.linspace(0.4, 2.0, 8), gao(1.0), 0)
    assert early.target < 2.0
    later = looked_at(early, np.linspace(1.0, 4.0, 20), lambda d: 0.8 * d, 1)
    assert later.target == 25.0


def test_earlier_runs_pull_a_curve_that_few_evaluations_tell() -> None:
    distances = np.linspace(0.2, 4.0, 30)
    known = start().after([((distances**2).tolist(), [gao(2.0)(d) for d in distances])])
    assert known.earlier is not None and start().after([([1.0], [1.0])]).earlier is None
    off = []
    for begun in (start(), known):
        found = [looked_at(begun, (1.0, 1.5, 2.0, 2.5, 3.0), gao(2.0), seed, noise=3.0).turn for seed in range(30)]
        off.append(np.mean([abs(math.log((turn or 6.0) / 2.0)) for turn in found]))
    assert off[1] < 0.8 * off[0]


def test_the_coefficient_goes_up_over_the_target_and_down_under_it_and_stays_within_its_bounds() -> None:
    at = replace(start(1.0), target=4.0)
    assert at.steer(8.0).coefficient > 1.0 > at.steer(2.0).coefficient and at.steer(4.0).coefficient == 1.0
    for kl, bound in ((1e9, 10.0), (-5.0, 1e-4)):
        far = at
        for _ in range(200):
            far = far.steer(kl)
        assert far.coefficient == bound
        assert far.steer(4.0).coefficient == pytest.approx(bound), "it has not wound up beyond its bound"


def test_what_it_has_learnt_survives_a_checkpoint_to_the_bit() -> None:
    distances = np.linspace(0.2, 4.0, 12)
    known = start().after([((distances**2).tolist(), [gao(2.0)(d) for d in distances])])
    state = looked_at(known, distances, gao(2.0), 0).steer(3.0)
    assert start().restored(json.loads(json.dumps(state.state()))) == state


def test_a_step_is_chosen_by_the_lower_end_of_the_judges_gain() -> None:
    assert lower_end([0.0] * 10) == 0.0
    assert lower_end([1.0, 1.2, 0.8, 1.0]) > 0.8 > lower_end([5.0, -3.0, 1.0, 1.0])


@pytest.mark.parametrize("coefficient", [0.001, 0.03, 1.0])
def test_from_any_coefficient_a_run_keeps_a_step_near_the_turning_point(coefficient: float) -> None:
    """A policy goes a part of the way to where its coefficient holds it; the judge turns over at a distance of 2."""
    rng, curve = np.random.default_rng(3), gao(2.0)
    state, d, seen = start(coefficient), 0.0, []
    for step in range(1, 151):
        d += 0.05 * (min(1.0 / state.coefficient, 6.0) - d)
        state = state.steer(d**2 + 0.2 * d * rng.normal())
        if step % 5 == 0:
            gain = curve(max(d, 0.01)) + rng.normal(size=PROMPTS)
            state = state.look(step, (d**2 + d * rng.normal(size=PROMPTS)).tolist(), gain.tolist(), 0)
            seen.append((lower_end(gain.tolist()), d))
    kept = max(seen)[1]
    assert curve(kept) > 0.93 * curve(2.0)
    assert curve(d) > 0.85 * curve(2.0), "and it ends there, although it aims a little lower"


# -- in a run ----------------------------------------------------------------------------------------------------------

SETTINGS = ["align.algorithm=rloo", "align.steps=8", "align.lr=2e-2", "align.schedule=constant", "align.max_tokens=6",
            "align.rollout.prompts=3", "align.rollout.k=2", "align.checkpoint_every=5", "align.reward=length",
            "align.evaluation.eval_every=1", "align.evaluation.calibrate_kl=true",
            "evaluate.scorer=brevity"]  # fmt: skip


UNJUDGED = "nobody judges"


def went(root: Path, *overrides: str) -> tuple[dict[str, str], record.Run]:
    chosen = [o for o in overrides if o != UNJUDGED]
    usual = SETTINGS[: -1 if UNJUDGED in overrides else None]
    with Project.open(root, [*usual, *chosen]) as project:
        align(project, 0)
    (run,) = [run for run in record.runs(root) if run.manifest["stage"] == "align"]
    return {
        str(p.relative_to(run.path)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in run.path.rglob("*")
        if p.name.endswith((".safetensors", "metrics.jsonl", "result.json"))
    }, run


def test_a_calibrated_run_logs_why_it_aims_where_it_does_and_resumes_to_the_same_bytes(
    tiny_with_reward: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(1)
    straight, stopped = (Path(shutil.copytree(tiny_with_reward, tmp_path / name)) for name in ("straight", "stopped"))
    files, run = went(straight)
    said, lines = capfd.readouterr().err, run.metrics()
    assert "step 0: the KL target is 25 nats, since nothing is evaluated yet" in said
    assert "since a curve needs 4 evaluations" in said and "a nat costs" in said
    assert all(line["kl_target"] > 0 for line in lines[1:]) and lines[1]["kl_target"] == 25.0
    last = lines[-1]
    assert {"eval_judge_gain", "eval_kl_turn_certain", "eval_kl_past_turn"} <= last.keys()
    assert len({line["kl_coefficient"] for line in lines[1:]}) == 8
    best = run.result["best_step"]
    gains = {line["step"]: line["eval_judge_gain"] for line in lines[1:]}
    assert best == 0 or gains[best] > 0, "the judge keeps the step, and not the reward, which is its opposite"

    real_save, real_load = checkpoints.save_checkpoint, checkpoints.load_checkpoint

    def stop(root: Path, done: int, *rest: Any) -> None:
        real_save(root, done, *rest)
        if done == 5:
            raise KeyboardInterrupt

    def forget(root: Path) -> Any:
        found = real_load(root)
        assert found is not None and found.step == 5
        progress = found.state["progress"]
        calibration = {**progress["calibration"], "log": math.log(0.05)}
        return replace(found, state={**found.state, "progress": {**progress, "calibration": calibration}})

    with pytest.MonkeyPatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(loop, "save_checkpoint", stop)
        went(stopped)
    forgetful = Path(shutil.copytree(stopped, stopped.with_name("forgetful")))
    assert went(stopped)[0] == files
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loop, "load_checkpoint", forget)
        assert went(forgetful)[0] != files, "this is the negative control"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([UNJUDGED], "without an independent judge: name one"),
        (["evaluate.scorer=length"], "also what the policy is trained on"),
        (["algorithms.rloo.kl=0"], "puts no price on the KL"),
        (["algorithms.rloo.kl_horizon=500"], "calibrate_kl has a controller of its own"),
    ],
)
def test_a_calibration_without_somebody_to_ask_is_refused_before_the_run(
    tiny_with_reward: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        went(tiny_with_reward, *overrides)
