"""Held-out rankings, asked while a model learns from ranked lists."""

from __future__ import annotations

import math

from prefloop.diagnose.finding import Expected
from prefloop.diagnose.records import RunRecord
from prefloop.diagnose.registry import Seen, rule


@rule(
    "heldout-at-chance",
    kind="level",
    reads=("heldout_accuracy",),
    expected=Expected(
        "over 0.5 at the end", "share of pairs", "accuracy", "held-out ranked pairs", "0.5 is what a coin is right on"
    ),
    broke="A policy that learns from rankings orders unseen pairs as people do.",
    meaning="What it learns from the lists does not hold on prompts that it has not seen.",
    cannot_tell="Whether people disagree, the lists are too few, or training went wrong.",
)
def heldout_at_chance(run: RunRecord) -> Seen | None:
    accuracy = run.series("heldout_accuracy")
    if accuracy is None or accuracy.last >= 0.5:
        return None
    return Seen(
        f"it orders {accuracy.last:.0%} of the held-out pairs as people do",
        accuracy.since(accuracy.values < 0.5),
        accuracy.last,
    )


@rule(
    "heldout-too-sure",
    kind="level",
    stages=("reward",),
    reads=("heldout_log_loss",),
    severity="note",
    expected=Expected("under ln 2 = 0.693 at the end", "nats a vote", "mean", "held-out votes", "ln 2 is chance"),
    broke="A reward model is no surer than it is right.",
    meaning="Single judgements surprise it more than they would surprise a coin.",
    cannot_tell="Whether it is wrong or only too sure: its accuracy and its calibration tell.",
)
def heldout_too_sure(run: RunRecord) -> Seen | None:
    loss = run.series("heldout_log_loss")
    if loss is None or loss.last <= math.log(2):
        return None
    return Seen(f"held-out log loss is {loss.last:.3f} nats a vote", loss.since(loss.values > math.log(2)), loss.last)
