"""Causes in the scorer itself: it is constant, mixes rewards up, or returns no number."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from prefloop.diagnose.finding import Action, Evidence
from prefloop.diagnose.records import RunRecord
from prefloop.diagnose.registry import cause


def asks_scorer(run: RunRecord) -> str:
    """Return the command that asks the run's own scorer about answers that are there already."""
    reward = run.align("reward")
    return "prefloop doctor" + (f" --set {shlex.quote(f'align.reward={reward}')}" if reward else "")


@cause(
    "function-other-than-people",
    "The function that gives the reward measures something else than people ranked",
    broke="The reward that is optimised agrees with people's own rankings.",
    remedy="If it is meant to measure what people ranked, read a list beside its scores. If not, nothing is wrong.",
    act=lambda run: Action("Ask the function about answers that people ranked.", asks_scorer(run)),
    explains={"scorer-at-chance": 2.0, "judge-down": 0.5, "judge-parted": 0.5},
)
def function_other(run: RunRecord) -> Iterator[Evidence]:
    if not run.align("reward"):
        yield Evidence("reward models give the reward", -5.0)


@cause(
    "reward-broken-constant",
    "The scorer gives every answer the same reward",
    broke="A reward tells answers apart.",
    remedy="Call the scorer on two answers, one good and one bad.",
    act=lambda run: Action("Ask the scorer about answers that people ranked.", asks_scorer(run)),
    explains={
        "reward-constant": 5.0,
        "scorer-less-accurate": 1.5,
        "groups-constant": 1.5,
        "reward-spread-lost": 1.0,
        "reward-flat": 0.7,
        "nothing-moves": 0.5,
        "scorer-at-chance": 0.7,
        "critic-useless": 0.2,
    },
    expects={"reward-constant": 3.0},
)
def reward_broken_constant(run: RunRecord) -> Iterator[Evidence]:
    yield from ()


@cause(
    "reward-not-a-number",
    "The scorer returns NaN now and then",
    broke="Every reward is a finite number.",
    remedy="Look at the answers that are named in the log; they are often empty or very long.",
    act=lambda run: Action(
        "Look at the answers for which the scorer returned no number.", f"prefloop diagnose {run.name}"
    ),
    explains={"reward-not-finite": 5.0, "not-finite": 1.5, "steps-skipped": 0.5, "run-failed": 0.5},
    expects={"reward-not-finite": 3.0},
)
def reward_not_a_number(run: RunRecord) -> Iterator[Evidence]:
    yield from ()


@cause(
    "reward-mixed-up",
    "Rewards go to other answers than those that earned them, or change from one asking to the next",
    broke="An answer has the same reward whenever it is asked about, and wherever it stands in a batch.",
    remedy="Look at what the scorer sorts, caches or draws at random; it returns one number an answer, in order.",
    act=lambda run: Action("Ask the scorer about answers that people ranked, twice.", asks_scorer(run)),
    explains={
        "check-reward-order": 5.0,
        "check-reward-padding": 2.0,
        "scorer-less-accurate": 1.0,
        "scorer-at-chance": 1.2,
        "reward-flat": 0.7,
    },
    expects={"check-reward-order": 4.0},
)
def reward_mixed_up(run: RunRecord) -> Iterator[Evidence]:
    yield from ()
