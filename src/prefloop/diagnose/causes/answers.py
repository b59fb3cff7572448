"""Causes of what an evaluation saw, and of rankings that teach a policy nothing."""

from __future__ import annotations

from collections.abc import Iterator

from prefloop.diagnose.finding import Action, Evidence
from prefloop.diagnose.records import RunRecord
from prefloop.diagnose.registry import cause
from prefloop.diagnose.rules.answers import both

EVALUATE = ("evaluate",)


@cause(
    "policy-collapsed",
    "The policy has collapsed",
    broke="An aligned policy still answers: differently to different prompts, to an end, and near to its reference.",
    remedy="Do not use it. Align again with a lower learning rate or a higher KL coefficient.",
    act=lambda run: Action("Look at the run that made this policy.", f"prefloop diagnose {_made_by(run)}"),
    explains={"answers-collapsed": 4.0, "answers-changed": 1.5, "answers-longer-or-shorter": 1.0},
    expects={"answers-collapsed": 3.0},
    stages=EVALUATE,
)
def policy_collapsed(run: RunRecord) -> Iterator[Evidence]:
    yield from ()


@cause(
    "answers-other-than-reference",
    "The answers have become other ones than the reference's",
    broke="The answers are as varied, as finished and as undecided as the reference's.",
    remedy="Read the answers; the report shows them side by side.",
    act=lambda run: Action("Read answers side by side in the report.", "prefloop report"),
    explains={"answers-changed": 2.0, "answers-longer-or-shorter": 2.0},
    stages=EVALUATE,
)
def answers_other(run: RunRecord) -> Iterator[Evidence]:
    yield from ()


@cause(
    "length-is-paid",
    "The policy is paid for length",
    broke="The reward follows length no more than it did.",
    remedy="Have pairs of like length ranked, or say in the guidelines that length is no merit.",
    act=lambda run: Action("See whether the reward model favours length.", "prefloop diagnose --stage reward"),
    explains={"reward-follows-length": 2.5, "answers-longer-or-shorter": 1.5, "judge-contradicts": 0.5},
    expects={"reward-follows-length": 1.5},
    stages=EVALUATE,
)
def length_is_paid(run: RunRecord) -> Iterator[Evidence]:
    after, before = (figures.get("length") for figures in both(run))
    if after and before and after < before:
        yield Evidence(f"answers became shorter ({before:.1f} to {after:.1f} tokens)", -1.0)


@cause(
    "rankings-teach-nothing",
    "What the rankings teach does not hold on other prompts",
    broke="A policy that learns from rankings orders unseen pairs as people do.",
    remedy="Have more lists ranked, and see how far people agree.",
    act=lambda run: Action("See how far people agree.", "prefloop agreement"),
    explains={"heldout-at-chance": 2.5},
)
def rankings_teach_nothing(run: RunRecord) -> Iterator[Evidence]:
    accuracy = run.series("accuracy")
    if accuracy is not None and accuracy.last > 0.8:
        yield Evidence(f"on the lists it learns from it is right on {accuracy.last:.0%}", 1.0)


def _made_by(run: RunRecord) -> str:
    policy = str(run.result.get("policy") or "")
    return policy if policy.startswith("align-") else "--stage align"
