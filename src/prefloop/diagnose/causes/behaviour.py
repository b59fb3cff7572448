"""Causes of behaviour that regresses."""

from __future__ import annotations

from collections.abc import Iterator

from prefloop.diagnose.finding import Action, Evidence
from prefloop.diagnose.records import RunRecord
from prefloop.diagnose.registry import cause


@cause(
    "behaviour-regresses",
    "The reward is bought with behaviour that has a bound",
    broke="A policy keeps every bound of behaviour.",
    remedy="Hold the policy nearer to the reference, or make the bound a part of the objective.",
    act=lambda run: Action(
        "Hold the policy nearer to the reference, and see which bound broke in the report.",
        f"prefloop align --set algorithms.{run.align('algorithm', 'ppo')}.kl=0.1",
    ),
    explains={"behaviour-broken": 4.0},
    expects={"behaviour-broken": 3.0},
)
def behaviour_regresses(run: RunRecord) -> Iterator[Evidence]:
    reward = run.series("eval_reward")
    if reward is not None and len(reward) > 1 and reward.values[-1] > reward.values[0]:
        yield Evidence(f"held-out reward rose from {reward.values[0]:.2f} to {reward.values[-1]:.2f}", 0.5)
