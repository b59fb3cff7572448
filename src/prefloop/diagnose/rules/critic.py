"""The critic of PPO."""

from __future__ import annotations

import numpy as np

from prefloop.diagnose.finding import Expected
from prefloop.diagnose.records import RunRecord
from prefloop.diagnose.registry import Seen, rule
from prefloop.diagnose.rules.optimiser import rates
from prefloop.diagnose.statistics import spikes, trend

WARM_UP = 10  # steps in which a critic is not judged (NeMo-RL, ppo.md)
NOISE = -25.0  # explained variance of the first step; healthy runs of benchmarks/planted.py begin at -8 or above


@rule(
    "critic-useless",
    kind="level",
    reads=("explained_variance",),
    expected=Expected(
        "over 0 after a warm-up of about 10 steps",
        "share",
        "1 - var(error) / var(return)",
        "a step",
        "37 details of PPO",
    ),
    broke="After its warm-up the critic predicts returns better than their mean does.",
    meaning="A critic below 0 adds noise to every advantage.",
    cannot_tell="Whether it cannot learn, has not had the time, or is chasing a reward that moves.",
)
def critic_useless(run: RunRecord) -> Seen | None:
    fit = run.series("explained_variance")
    if fit is None or len(fit) < WARM_UP or fit.last > 0:
        return None
    rises = trend(fit, 1)
    if rises is not None and rises < 0.05:  # it is on its way
        return None
    return Seen(
        f"the critic explains {fit.last:.2f} of the variance of the returns", fit.since(fit.values <= 0), fit.last
    )


@rule(
    "critic-bad-start",
    kind="level",
    reads=("explained_variance",),
    expected=Expected(
        "over -25 at first, over -6 in the first steps", "share", "1 - var(error) / var(return)", "a step", "our rule"
    ),
    broke="A critic starts no worse than a guess of the mean.",
    meaning="A critic that starts from the reward model is near from the first step on. Where a function gives the "
    "reward, the critic's head is new, and this is only noted.",
    cannot_tell="Returns that hardly vary make the share very negative for a small error.",
)
def critic_bad_start(run: RunRecord) -> Seen | None:
    fit = run.series("explained_variance")
    if fit is None or len(fit) < 3 or (fit.first > -6.0 and fit.values[0] > NOISE):
        return None
    said = f"the critic starts at {fit.values[0]:.2f} explained variance, and {fit.first:.2f} in its first steps"
    new = bool(run.align("reward"))  # Where a function gives the reward, there is no reward model to start from.
    return Seen(said, int(fit.steps[0]), fit.first, severity="note" if new else None)


@rule(
    "critic-still",
    kind="level",
    reads=("value_loss",),
    expected=Expected(
        "falls by a fifth or more, unless it is small already", "squared reward", "mean", "a step", "our rule"
    ),
    broke="The critic learns.",
    meaning="Its loss is as large at the end as at the beginning although the reward model's own variance is not.",
    cannot_tell="A critic that was right from the start does not improve either.",
)
def critic_still(run: RunRecord) -> Seen | None:
    loss, fit = run.series("value_loss"), run.series("explained_variance")
    if loss is None or fit is None or len(loss) < 8 or fit.last > 0.05:
        return None
    if loss.last < 0.8 * loss.first:
        return None
    return Seen(f"the value loss went from {loss.first:.3g} to {loss.last:.3g}", int(loss.steps[0]), loss.last)


@rule(
    "critic-loss-large",
    kind="level",
    reads=("value_loss", "reward_std"),
    expected=Expected(
        "under 30 times the variance of the rewards after the first step", "ratio", "mean", "a step", "our rule"
    ),
    broke="The critic's values have the size of the returns.",
    meaning="Its values are off by many spreads of the reward, so that advantages are its errors and nothing else.",
    cannot_tell="Whether it began so far off or was thrown there by its rate.",
)
def critic_loss_large(run: RunRecord) -> Seen | None:
    loss, spread = run.series("value_loss"), run.series("reward_std")
    if loss is None or spread is None or len(loss) < 3 or len(loss) != len(spread):
        return None
    times = loss.values / np.maximum(spread.values, 0.05) ** 2
    off = times[1:] > 30
    if not off.any():
        return None
    worst = float(times[1:].max())
    return Seen(
        f"the value loss is up to {worst:.0f} times the variance of the rewards",
        int(loss.steps[1:][np.argmax(off)]),
        worst,
    )


@rule(
    "critic-rate-unusual",
    kind="setting",
    reads=("value_loss",),
    severity="note",
    expected=Expected(
        "a twentieth to 20 times the default for the model's width", "ratio", "peak", "a run", "docs/config.md"
    ),
    broke="The critic's learning rate fits the width of the model.",
    meaning="A critic that is too slow never learns, and one that is too fast forgets at each step what it learnt.",
    cannot_tell="Critics bear a wider range of rates than policies.",
)
def critic_rate_unusual(run: RunRecord) -> Seen | None:
    asked, usual = rates(run).get("critic", (0.0, 0.0))
    if not usual or 0.05 <= asked / usual <= 20:
        return None
    return Seen(
        f"the learning rate of the critic is {asked:g}; {usual:g} is usual for this width",
        None,
        asked / usual,
        signal="critic_lr",
    )


@rule(
    "value-clipped",
    kind="level",
    reads=("value_clip_fraction",),
    expected=Expected("falls to 0", "share", "mean", "tokens of an update", "37 details of PPO"),
    broke="Value clipping is a safety net and not what holds the critic back.",
    meaning="A critic whose every change is clipped cannot follow its returns.",
    cannot_tell="Whether the range is too small or the returns too large.",
)
def value_clipped(run: RunRecord) -> Seen | None:
    share = run.series("value_clip_fraction")
    if share is None or len(share) < WARM_UP:
        return None
    since = share.since(share.values > 0.3)
    return None if since is None else Seen(f"{share.last:.0%} of the values are clipped", since, share.last)


@rule(
    "critic-spikes",
    kind="level",
    reads=("grad_norm_critic",),
    expected=Expected(
        "within 20 times its median, and that of the ten steps before",
        "norm",
        "largest",
        "a step",
        "our rule; axolotl (over 10 is unstable)",
    ),
    broke="The critic's gradient has no spikes.",
    meaning="One batch with huge returns can undo what the critic has learnt.",
    cannot_tell="What caused the spike.",
)
def critic_spikes(run: RunRecord) -> Seen | None:
    norm = run.series("grad_norm_critic")
    if norm is None or len(norm) < 4:
        return None
    middle = float(np.median(norm.values))
    off = spikes(norm, 20, 10.0)
    if not off.any():
        return None
    return Seen(
        f"the critic's gradient norm reached {norm.values[off].max():.3g}, its median is {middle:.3g}",
        int(norm.steps[np.argmax(off)]),
        float(norm.values[off].max()),
    )
