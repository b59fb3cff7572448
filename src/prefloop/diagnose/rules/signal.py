"""Whether there is anything to learn from."""

from __future__ import annotations

import numpy as np
from scipy import stats

from prefloop.diagnose.finding import Expected
from prefloop.diagnose.records import RunRecord
from prefloop.diagnose.registry import Seen, rule
from prefloop.diagnose.rules.kl import starts_at_reference
from prefloop.diagnose.statistics import trend

RISES = 0.02  # chance gives so clear a rise this often


@rule(
    "groups-constant",
    kind="level",
    reads=("constant_groups",),
    expected=Expected(
        "under 0.8; 1 is no gradient",
        "share",
        "mean",
        "groups of a step",
        "axolotl; DAPO and Tinker leave such groups out",
    ),
    broke="The answers to one prompt differ in reward.",
    meaning="A method that compares answers within a group gets no gradient from a group whose answers score alike.",
    cannot_tell="Whether the answers are alike or the reward is.",
)
def groups_constant(run: RunRecord) -> Seen | None:
    share = run.series("constant_groups")
    if share is None:
        return None
    since = share.since(share.values > 0.6)
    return None if since is None else Seen(f"{share.last:.0%} of the groups score alike", since, share.last)


@rule(
    "nothing-moves",
    kind="level",
    reads=("kl_k3",),
    expected=Expected("over 0.02 after ten steps", "nats", "k3", "a sequence", "our rule, from runs in docs/log.md"),
    broke="A run that learns leaves its reference.",
    meaning="After all these steps the policy still is its reference.",
    cannot_tell="Whether the rate is too small or there is nothing to learn.",
)
def nothing_moves(run: RunRecord) -> Seen | None:
    kl = run.series("kl_k3")
    if kl is None or len(kl) < 8 or kl.last >= 0.02:
        return None
    return Seen(f"KL is {kl.last:.2g} nats a sequence after {run.steps} steps", int(kl.steps[0]), kl.last)


@rule(
    "reward-flat",
    kind="level",
    reads=("eval_reward", "eval_reward_std", "eval_sequences"),
    expected=Expected(
        "rises by more than two standard errors", "sd of the reference's reward", "mean", "an evaluation", "our rule"
    ),
    broke="The reward that is optimised rises on held-out prompts.",
    meaning="The run has spent its steps, and by the very reward that it optimised held-out answers are no better. It "
    "is only noted where a rise is likelier than none: by more than one standard error, or by a clear trend of the "
    "answers that were learnt from; and in a later round, which has less left to gain.",
    cannot_tell="A run that is too short, and one that has no signal, look alike.",
)
def reward_flat(run: RunRecord) -> Seen | None:
    reward, spread, n = run.series("eval_reward"), run.series("eval_reward_std"), run.series("eval_sequences")
    steps = run.align("steps")
    if reward is None or spread is None or n is None or len(reward) < 2 or run.steps < 8 or _has_bounds(run):
        return None
    if steps and reward.steps[-1] < 0.5 * steps:
        return None
    error = 2 * float(np.hypot(spread.values[0], spread.values[-1])) / max(1.0, float(n.values[-1])) ** 0.5
    best = float(reward.values[1:].max()) - float(reward.values[0])
    if best > error:
        return None
    rose = f"rose by {best:.2f} at most" if best > 0 else f"fell by {-best:.2f} at least"
    return Seen(
        f"held-out reward {rose}, and two standard errors are {error:.2f}",
        int(reward.steps[0]),
        best,
        severity=None if starts_at_reference(run) and best <= 0.5 * error and not _rises(run) else "note",
    )


def _rises(run: RunRecord) -> bool:
    """Return whether the reward of what is learnt from rises, of which there is more than of held-out answers."""
    reward = run.series("reward")
    found = trend(reward, 1) if reward is not None else None
    return found is not None and found < RISES


@rule(
    "reward-fell",
    kind="level",
    reads=("eval_reward", "eval_reward_std", "eval_sequences"),
    expected=Expected(
        "no fall of more than two standard errors from the best",
        "sd of the reference's reward",
        "mean",
        "an evaluation",
        "our rule",
    ),
    broke="The reward that is optimised does not fall.",
    meaning="Optimising a reward brings it down: the update no longer does what it is meant to do.",
    cannot_tell="Which part of the update is broken.",
)
def reward_fell(run: RunRecord) -> Seen | None:
    reward, spread, n = run.series("eval_reward"), run.series("eval_reward_std"), run.series("eval_sequences")
    if reward is None or spread is None or n is None or len(reward) < 2 or _has_bounds(run):
        return None
    best = int(np.argmax(reward.values))
    error = 2.5 * float(max(spread.values[best], spread.values[-1])) * (2 / max(1.0, float(n.values[-1]))) ** 0.5
    fell = float(reward.values[best] - reward.values[-1])
    if fell <= error or best == len(reward) - 1:
        return None
    return Seen(
        f"held-out reward fell from {reward.values[best]:.2f} (step {reward.steps[best]}) to {reward.values[-1]:.2f}",
        int(reward.steps[best]),
        fell,
        severity="error" if reward.values[0] - reward.values[-1] > error else None,  # worse than no training at all
    )


@rule(
    "reward-falls",
    kind="trend",
    reads=("reward",),
    expected=Expected("rises", "sd of the reference's reward", "mean; Kendall's tau", "a step", "our rule"),
    broke="Optimising a reward raises it.",
    meaning="The reward of the samples falls from the first step on: the update works against what it optimises.",
    cannot_tell="A rate that is far too high brings it down as well, often after a rise.",
)
def reward_falls(run: RunRecord) -> Seen | None:
    reward = run.series("reward")
    if reward is None or len(reward) < 6 or _has_bounds(run):
        return None
    p = trend(reward, -1, window=len(reward))
    if p is None or p >= 0.05 or reward.first - reward.last < 0.2 or int(np.argmax(reward.values)) > len(reward) // 3:
        return None
    said = f"the reward fell from {reward.first:.2f} to {reward.last:.2f}, without a rise before"
    return Seen(said, int(reward.steps[0]), reward.last, p=p)


@rule(
    "no-gradient",
    kind="invariant",
    reads=("grad_norm_policy",),
    severity="error",
    expected=Expected("over 0", "norm", "of the mean gradient", "an update", "our invariant"),
    broke="A reward that differs between answers gives a gradient.",
    meaning="The policy's gradient is zero at most steps: nothing is learnt, whatever the rate.",
    cannot_tell="Whether the loss, the mask or the weights are cut off.",
)
def no_gradient(run: RunRecord) -> Seen | None:
    norm = run.series("grad_norm_policy")
    if norm is None or len(norm) < 3:
        return None
    off = norm.values < 1e-9
    since = norm.since(off)
    return None if since is None else Seen("the policy's gradient is 0", since, 0.0)


def _has_bounds(run: RunRecord) -> bool:
    """Whether other criteria have bounds ([align.objective]): then the run gives reward up for them, as it should."""
    return run.series("objective") is not None


@rule(
    "criteria-apart",
    kind="level",
    reads=("reward",),
    expected=Expected(
        "every criterion rises or holds", "sd of the reference's reward", "mean", "a step", "Moskovitz 2024"
    ),
    broke="What is optimised together improves together.",
    meaning="One criterion is bought with another: the sum rises while a part of it falls.",
    cannot_tell="Which of the criteria you care about more.",
)
def criteria_apart(run: RunRecord) -> Seen | None:
    known = {*run.judges, *(run.align("scorers") or {})}
    parts = {n: s for n, s in run.metrics.items() if n.startswith("reward_") and n[7:] in known and len(s) >= 4}
    if len(parts) < 2:
        return None
    moved = {}
    for name, series in parts.items():
        tau = stats.kendalltau(series.steps, series.values)
        moved[name[7:]] = (series.last - series.first, float(tau.pvalue))
    up = [n for n, (change, p) in moved.items() if change > 0.15 and p < 0.05]
    down = [n for n, (change, p) in moved.items() if change < -0.15 and p < 0.05]
    if not up or not down:
        return None
    said = f"{' and '.join(up)} rose while {' and '.join(down)} fell by {-moved[down[0]][0]:.2f}"
    return Seen(said, int(parts[f"reward_{down[0]}"].steps[0]), moved[down[0]][0], signal=f"reward_{down[0]}")
