"""Causes in the critic."""

from __future__ import annotations

from collections.abc import Iterator

from prefloop.diagnose.finding import Action, Evidence
from prefloop.diagnose.records import RunRecord
from prefloop.diagnose.registry import cause
from prefloop.diagnose.rules.critic import NOISE
from prefloop.diagnose.rules.optimiser import rates


def _is_ppo(run: RunRecord) -> Iterator[Evidence]:
    if run.series("explained_variance") is None:
        yield Evidence("the run has no critic", -6.0)


@cause(
    "critic-not-learning",
    "The critic does not learn",
    broke="After its warm-up the critic predicts returns better than their mean does.",
    remedy="Raise [align] critic_lr to what is usual for the width; or use rloo or grpo, which need no critic.",
    act=lambda run: Action(
        "Give the critic a rate at which it learns.",
        f"prefloop align --set align.critic_lr={rates(run).get('critic', (0, 1e-3))[1]:g}",
    ),
    explains={
        "critic-useless": 2.0,
        "critic-still": 2.5,
        "value-clipped": 0.7,
        "critic-bad-start": 0.3,
        "critic-rate-unusual": 1.0,
    },
    expects={"critic-still": 0.7},
)
def critic_not_learning(run: RunRecord) -> Iterator[Evidence]:
    yield from _is_ppo(run)
    asked, usual = rates(run).get("critic", (0.0, 0.0))
    if asked and usual:
        if asked / usual < 0.1:
            yield Evidence(f"the critic's rate is {asked / usual:.2g} times what is usual for this width", 3.0)
        elif 0.5 < asked / usual < 2:
            yield Evidence("the critic's rate is usual for this width", -0.7)
    norm = run.series("grad_norm_critic")
    if norm is not None and norm.last < 1e-6:
        yield Evidence(f"the critic's gradient is {norm.last:.1g}", 3.0)


@cause(
    "critic-from-noise",
    "The critic starts from noise",
    broke="A critic starts no worse than a guess of the mean.",
    remedy="Start it from the reward model, which is the default, and do not change its head.",
    act=lambda run: (
        Action("A function gives the reward, so that its head is new: give it steps, or use grpo or rloo, without one.")
        if run.align("reward")
        else Action("Compare the saved reward model with what is loaded.", "prefloop doctor")
    ),
    explains={
        "critic-bad-start": 3.0,
        "critic-useless": 0.7,
        "critic-loss-large": 1.5,
        "critic-spikes": 1.0,
        "value-clipped": 0.7,
    },
    expects={"critic-bad-start": 2.0},
)
def critic_from_noise(run: RunRecord) -> Iterator[Evidence]:
    yield from _is_ppo(run)
    fit = run.series("explained_variance")
    if fit is not None and (fit.first < -3 or fit.values[0] < NOISE):
        yield Evidence(f"explained variance is {fit.values[0]:.1f} at the first step", 1.0)
    if fit is not None and len(fit) >= 5 and fit.first < -0.5 and fit.last > fit.first + 0.5:
        yield Evidence("it gets better with every step, so that it does learn", 0.7)


@cause(
    "value-clip-small",
    "Value clipping holds the critic back",
    broke="Value clipping is a safety net and not what holds the critic back.",
    remedy="Raise [algorithms.ppo] value_clip.",
    act=lambda run: Action("Let the critic move.", "prefloop align --set algorithms.ppo.value_clip=0.5"),
    explains={"value-clipped": 2.5, "critic-useless": 0.5, "critic-still": 1.0},
    expects={"value-clipped": 2.0},
)
def value_clip_small(run: RunRecord) -> Iterator[Evidence]:
    yield from _is_ppo(run)
    clip = float(run.option("value_clip", 0.2))
    if clip < 0.05:
        yield Evidence(f"value_clip is {clip:g}", 2.5)


@cause(
    "critic-rate-high",
    "The critic's learning rate is too high",
    broke="The critic's gradient has no spikes.",
    remedy="Lower [align] critic_lr.",
    act=lambda run: Action(
        "Lower the critic's rate.",
        f"prefloop align --set align.critic_lr={rates(run).get('critic', (0, 1e-3))[1]:g}",
    ),
    explains={
        "critic-spikes": 2.0,
        "critic-loss-large": 2.5,
        "critic-rate-unusual": 1.0,
        "reward-flat": 0.5,
        "critic-useless": 1.0,
        "critic-bad-start": 0.5,
        "value-clipped": 1.0,
        "steps-skipped": 0.3,
    },
)
def critic_rate_high(run: RunRecord) -> Iterator[Evidence]:
    yield from _is_ppo(run)
    asked, usual = rates(run).get("critic", (0.0, 0.0))
    if asked and usual:
        if asked / usual > 5:
            yield Evidence(f"the critic's rate is {asked / usual:.0f} times what is usual for this width", 3.0)
        elif asked / usual <= 2:
            yield Evidence("the critic's rate is usual for this width", -2.0)
