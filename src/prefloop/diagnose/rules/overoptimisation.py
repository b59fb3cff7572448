"""The reward that is optimised, and a judge that is not."""

from __future__ import annotations

import numpy as np

from prefloop.diagnose.finding import Expected
from prefloop.diagnose.gao import fit
from prefloop.diagnose.records import RunRecord
from prefloop.diagnose.registry import Seen, rule

JUDGED = ("eval_reward", "eval_judge", "eval_judge_std", "eval_sequences")


def _error(run: RunRecord) -> float:
    """Return two standard errors of the difference of two evaluations by the judge; inf where they are not told."""
    spread, n = run.series("eval_judge_std"), run.series("eval_sequences")
    return 2 * float(spread.values[-1]) * (2 / float(n.values[-1])) ** 0.5 if spread and n else np.inf


def judge_rose(run: RunRecord) -> bool:
    """Return whether an independent judge found the answers better than before the run, beyond chance."""
    judge = run.series("eval_judge")
    return judge is not None and bool(judge.values[-1] - judge.values[0] > _error(run))


@rule(
    "judge-parted",
    kind="level",
    reads=JUDGED,
    expected=Expected("both rise", "the judge's own", "mean", "an evaluation", "Gao 2023; Coste 2024"),
    broke="A better reward is a better answer.",
    meaning="An independent judge has come down from its best while the reward went on rising: over-optimisation.",
    cannot_tell="Whether the independent judge or the reward is right, where the judge is itself a model.",
)
def judge_parted(run: RunRecord) -> Seen | None:
    reward, judge, kl = run.series("eval_reward"), run.series("eval_judge"), run.series("eval_kl")
    if reward is None or judge is None or len(judge) < 3 or len(judge) != len(reward):
        return None
    error = _error(run)
    best = int(np.argmax(judge.values))
    fell, rose = float(judge.values[best] - judge.values[-1]), float(reward.values[-1] - reward.values[best])
    if fell <= error or rose < 0 or best == len(judge) - 1:
        return None
    at = f", at KL {kl.values[best]:.1f}" if kl is not None and len(kl) > best else ""
    peak = fit(kl.values, judge.values - judge.values[0]) if kl is not None and len(kl) == len(judge) else None
    told = f"; the curve of Gao 2023 peaks at KL {peak.peak_kl:.1f}" if peak else ""
    said = f"the judge fell by {fell:.3g} from its best at step {judge.steps[best]}{at}, while the reward rose{told}"
    return Seen(said, int(judge.steps[best]), fell)


@rule(
    "judge-down",
    kind="level",
    reads=JUDGED,
    expected=Expected("not under the reference", "the judge's own", "mean", "an evaluation", "Gao 2023"),
    broke="The policy is no worse than its reference by a judge that it was not trained with.",
    meaning="The reward has risen and the independent judge says that the answers are worse than before the run.",
    cannot_tell="Whether the judge or the reward is right, where the judge is itself a model.",
)
def judge_down(run: RunRecord) -> Seen | None:
    reward, judge = run.series("eval_reward"), run.series("eval_judge")
    if reward is None or judge is None or len(judge) < 2:
        return None
    error = _error(run)
    if judge.values[0] - judge.last <= error or reward.last < reward.values[0]:
        return None
    since = judge.since(judge.values < judge.values[0] - error)
    return Seen(
        f"the judge went from {judge.values[0]:.3g} to {judge.last:.3g}, while the reward rose", since, judge.last
    )


@rule(
    "judge-contradicts",
    kind="data",
    stages=("evaluate",),
    expected=Expected(
        "both gains have one sign", "the judge's own", "mean with 95 % interval", "held-out prompts", "Gao 2023"
    ),
    broke="A better reward is a better answer.",
    meaning="On prompts that nothing was chosen on, the reward rose and the independent judge fell.",
    cannot_tell="Whether people would agree with the judge.",
)
def judge_contradicts(run: RunRecord) -> Seen | None:
    sampled = run.result.get("sampled") or {}
    reward, judge = sampled.get("reward_gain"), sampled.get("judge_gain")
    if not reward or not judge or reward.get("low") is None or judge.get("high") is None:
        return None
    if reward["low"] <= 0 or judge["high"] >= 0:
        return None
    return Seen(
        f"reward {reward['mean']:+.2f}, independent judge {judge['mean']:+.3g}",
        None,
        judge["mean"],
        signal="judge_gain",
        severity="error",
    )


@rule(
    "judge-unmoved",
    kind="data",
    stages=("evaluate",),
    expected=Expected(
        "the judge rises with the reward", "the judge's own", "mean with 95 % interval", "held-out prompts", "our rule"
    ),
    broke="A large gain in reward shows in an independent judge.",
    meaning="The reward rose by more than half of its spread and the judge, with enough prompts to see it, did not.",
    cannot_tell="A judge that measures something else does not move either.",
)
def judge_unmoved(run: RunRecord) -> Seen | None:
    sampled = run.result.get("sampled") or {}
    reward, judge = sampled.get("reward_gain"), sampled.get("judge_gain")
    if not reward or not judge or reward.get("low") is None or judge.get("low") is None:
        return None
    if reward["low"] < 0.5 or judge["low"] > 0 or judge["high"] < 0:
        return None
    return Seen(
        f"reward {reward['mean']:+.2f}, independent judge {judge['mean']:+.3g} (no clear change)",
        None,
        judge["mean"],
        signal="judge_gain",
        severity="note",
    )
