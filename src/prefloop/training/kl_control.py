"""Steers the price on the KL while a run goes on, and says why it moved: `kl_target`, or `calibrate_kl`."""

from __future__ import annotations

from typing import Any

from prefloop import record
from prefloop.config import Config
from prefloop.errors import ConfigError
from prefloop.ops.masked import masked_sum
from prefloop.project.project import Project
from prefloop.training.kl_calibration import KlCalibration
from prefloop.training.policy_evaluation import Looked
from prefloop.training.progress import Progress


def check_calibration(config: Config, algorithm: Any) -> None:
    """Raise ConfigError where `calibrate_kl` has nobody to ask, or nothing to steer."""
    align, scorer = config.align, config.evaluate.scorer
    if not align.evaluation.calibrate_kl:
        return
    said = "[align.evaluation] calibrate_kl would have no effect"
    if not getattr(algorithm, "kl", 0.0):
        raise ConfigError(f"{said}: {align.algorithm} puts no price on the KL. Leave it out, or give kl a value.")
    if not scorer:
        raise ConfigError(
            f"{said} without an independent judge: name one that the policy is not trained on, as [evaluate] scorer = "
            '"file.py:function" (it may read a reward model of held-out rankings, or ask people). Else leave '
            "calibrate_kl out, and set kl or kl_target."
        )
    if scorer in (align.reward, *align.objective.scorers.values()):
        raise ConfigError(
            f"{said}: [evaluate] scorer = {scorer!r} is also what the policy is trained on, so that it cannot tell "
            "where that goes wrong. Name another scorer."
        )


def judge_of(project: Project) -> dict[str, str]:
    """Return the judge as an input of the run that it steers; {} where it only looks."""
    scorer = project.config.evaluate.scorer
    if not scorer or not project.config.align.evaluation.calibrate_kl:
        return {}
    return {"judge": project.scorer(scorer).identity}


def calibration_of(config: Config, algorithm: Any) -> KlCalibration | None:
    """Return what a run starts with; None where it calibrates nothing."""
    evaluation = config.align.evaluation
    if not evaluation.calibrate_kl:
        return None
    budget = min(algorithm.kl_target or evaluation.kl_budget, evaluation.kl_budget)
    return KlCalibration.starting(algorithm.kl, budget, algorithm.kl_min, algorithm.kl_max)


def with_earlier_runs(project: Project, calibration: KlCalibration) -> KlCalibration:
    """Return the calibration with the curves of finished runs that the same judge has seen."""
    curves = []
    for run in record.runs(project.root):
        judge = run.manifest.get("config", {}).get("evaluate", {}).get("scorer")
        if run.manifest["stage"] != "align" or run.status != "done" or judge != project.config.evaluate.scorer:
            continue
        seen = [line for line in run.metrics() if line.get("eval_judge_gain") is not None]
        curves.append(([line["eval_kl"] for line in seen], [line["eval_judge_gain"] for line in seen]))
    return calibration.after(curves)


class KlControl:
    """Changes the algorithm of a run's `progress`. It remembers nothing itself that a resumed run would lack."""

    def __init__(self, project: Project, progress: Progress, seed: int):
        self.project, self.progress, self.seed = project, progress, seed

    def stepped(self, metrics: dict[str, float]) -> dict[str, float]:
        """Set the coefficient of the next step from the metrics of this one. Returns what is logged of it."""
        state, algorithm = self.progress, self.progress.algorithm
        if state.calibration is None:
            state.algorithm = algorithm.adapt(metrics)
            target = getattr(algorithm, "kl_target", 0.0)
        else:
            target = state.calibration.target
            state.calibration = state.calibration.steer(metrics["kl"])
            state.algorithm = algorithm.priced(state.calibration.coefficient)
        return {"kl_target": target} if target else {}

    def evaluated(self, step: int, looked: Looked, gain: list[float] | None) -> dict[str, float]:
        """Set the target from an evaluation, and say why it is that. gain: the judge's over the reference, a prompt.

        Returns what is logged of it.
        """
        state = self.progress
        target = getattr(state.algorithm, "kl_target", 0.0)
        if state.calibration is not None and gain is not None:
            assert looked.batch.ref_logp is not None
            kl = masked_sum(looked.batch.old_logp - looked.batch.ref_logp, looked.batch.action, dim=1)
            before = state.calibration
            now = state.calibration = before.look(step, kl.tolist(), gain, self.seed) if step else before
            moved = f" (was {before.target:.3g})" if abs(now.target - before.target) > 1e-9 else ""
            self.project.say(
                f"step {step}: the KL target is {now.target:.3g} nats{moved}, since {now.reason}; a nat costs "
                f"{state.algorithm.kl:.3g}"
            )
            return {"judge_gain": sum(gain) / len(gain), **now.metrics()} if step else {}
        if target and step:
            kl_now = looked.figures["kl"]
            side = "over" if kl_now > target else "under"
            self.project.say(
                f"step {step}: a nat of KL costs {state.algorithm.kl:.3g}; held-out answers are at {kl_now:.3g} nats, "
                f"{side} the target of {target:g}"
            )
        return {}
