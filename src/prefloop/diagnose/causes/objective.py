"""Causes in what is optimised together: criteria at odds, and behaviour that the reward leaves out.

Both have the same remedy: what falls gets a bound in the objective, and training finds what it has to weigh.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from prefloop.diagnose.finding import Action, Evidence
from prefloop.diagnose.records import RunRecord
from prefloop.diagnose.registry import cause
from prefloop.diagnose.rules.signal import criteria_apart


def bounded(run: RunRecord, bounds: Mapping[str, float], scorers: Mapping[str, str]) -> str:
    """Return the command that aligns again under further bounds. scorers: functions that measure them."""
    objective: Mapping[str, Any] = run.setting("align", "objective", default={})
    known = {**(objective.get("scorers") or {}), **scorers}
    kept = objective.get("subject_to") or {}
    settings = ["align.objective.kind=constrained"]
    if known != objective.get("scorers"):
        settings.append(f"align.objective.scorers={_table(known)}")
    settings.append(f"align.objective.subject_to={_table({**kept, **bounds})}")
    return "prefloop align " + " ".join(f"--set {shlex.quote(setting)}" for setting in settings)


def _table(values: Mapping[str, float | str]) -> str:
    return "{" + ", ".join(f"{k} = " + (f'"{v}"' if isinstance(v, str) else f"{v:g}") for k, v in values.items()) + "}"


def _bound_what_falls(run: RunRecord) -> Action:
    seen = criteria_apart(run)
    if seen is None or seen.signal is None:
        return Action("Give the criterion that falls a bound, or see what one costs the other.", "prefloop frontier")
    name = seen.signal.removeprefix("reward_")
    before = run.series(f"eval_{seen.signal}") or run.series(seen.signal)
    level = round(float(before.values[0]), 2) if before is not None else 0.0
    return Action(
        f"Let {name} not fall below where the run began, or any other level that you need; prefloop frontier shows "
        "what levels cost.",
        bounded(run, {name: level}, {}),
    )


@cause(
    "criteria-at-odds",
    "Two criteria are at odds",
    broke="What is optimised together improves together.",
    remedy='Say which one may not fall: [align.objective] kind = "constrained" and subject_to; or change the weights.',
    act=_bound_what_falls,
    explains={"criteria-apart": 4.0, "reward-flat": 0.3},
    expects={"criteria-apart": 3.0},
)
def criteria_at_odds(run: RunRecord) -> Iterator[Evidence]:
    yield from ()


def _bound_what_broke(run: RunRecord) -> Action:
    """Make a check of the user's own that broke its bound a criterion; hold the policy nearer where there is none."""
    functions = {spec.rpartition(":")[2]: spec for spec in run.setting("behaviour", "functions", default=())}
    drops = run.setting("behaviour", "max_drop", default={})
    said = [str(bound) for breach in run.result.get("breaches") or () for bound in breach["bounds"]]
    fell = {}
    for name in functions:
        figures = run.series(f"eval_behaviour_{name}")
        drop = drops.get(name) if isinstance(drops, Mapping) else drops
        if figures is None or drop is None or (said and not any(bound.startswith(f"{name} ") for bound in said)):
            continue
        if (low := figures.values[0] - drop) > figures.values[-1]:
            fell[name] = round(float(low), 3)
    if fell:
        return Action(
            f"Make {' and '.join(fell)} a part of what is learnt: the same function, as a criterion with a bound.",
            bounded(run, fell, {name: functions[name] for name in fell}),
        )
    algorithm = run.align("algorithm", "ppo")
    return Action(
        "Hold the policy nearer to the reference, and see which bound broke in the report.",
        f"prefloop align --set algorithms.{algorithm}.kl={2 * float(run.option('kl', 0.05)):g}",
    )


@cause(
    "behaviour-regresses",
    "The reward is bought with behaviour that has a bound",
    broke="A policy keeps every bound of behaviour.",
    remedy="Make the bound a part of the objective, or hold the policy nearer to the reference.",
    act=_bound_what_broke,
    explains={"behaviour-broken": 4.0},
    expects={"behaviour-broken": 3.0},
)
def behaviour_regresses(run: RunRecord) -> Iterator[Evidence]:
    reward = run.series("eval_reward")
    if reward is not None and len(reward) > 1 and reward.values[-1] > reward.values[0]:
        yield Evidence(f"held-out reward rose from {reward.values[0]:.2f} to {reward.values[-1]:.2f}", 0.5)
