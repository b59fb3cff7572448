"""What `evaluate` saw of the answers, beside the reference's answers to the same prompts."""

from __future__ import annotations

from collections.abc import Mapping

from prefloop.diagnose.collapse import Sign, signs
from prefloop.diagnose.finding import Expected
from prefloop.diagnose.records import RunRecord
from prefloop.diagnose.registry import Seen, rule

EVALUATE = ("evaluate",)
_LEVELS = "docs/metrics.md#collapse has each level: our rules; N+ 2024 and axolotl for KL, ends and entropy"


def both(run: RunRecord) -> tuple[Mapping[str, float], Mapping[str, float]]:
    """(figures of the policy, of its reference), sampled; {} where there are none."""
    sampled = run.result.get("sampled") or {}
    return sampled.get("policy") or {}, sampled.get("reference") or {}


def _seen(found: list[Sign]) -> Seen | None:
    if not found:
        return None
    return Seen("; ".join(sign.said for sign in found), None, found[0].after, signal=found[0].name)


@rule(
    "answers-collapsed",
    kind="level",
    stages=EVALUATE,
    severity="error",
    expected=Expected(
        "distinct-2 over 0.15 of the reference's, repetition less than 0.5 over it, ...",
        "shares and nats",
        "means",
        "answers to test prompts",
        _LEVELS,
    ),
    broke="An aligned policy still answers: differently to different prompts, to an end, and near to its reference.",
    meaning="The answers are far outside of what the reference does, so that its reward says nothing for them.",
    cannot_tell="Whether a closed task needs more than one answer; the reference's own figures are the measure.",
)
def answers_collapsed(run: RunRecord) -> Seen | None:
    return _seen([sign for sign in signs(*both(run)) if sign.verdict == "collapsed"])


@rule(
    "answers-changed",
    kind="level",
    stages=EVALUATE,
    severity="note",
    expected=Expected(
        "distinct-2 over 0.75 of the reference's, repetition less than 0.15 over it, KL under 50 nats, ...",
        "shares and nats",
        "means",
        "answers to test prompts",
        _LEVELS,
    ),
    broke="The answers are as varied, as finished and as undecided as the reference's.",
    meaning="It is a reason to read answers before the result is believed.",
    cannot_tell="Whether the change is wanted.",
)
def answers_changed(run: RunRecord) -> Seen | None:
    return _seen([sign for sign in signs(*both(run)) if sign.verdict == "look"])


@rule(
    "answers-longer-or-shorter",
    kind="level",
    stages=EVALUATE,
    severity="note",
    expected=Expected("within a quarter of the reference's", "tokens", "mean", "answers to test prompts", "our rule"),
    broke="Answers stay about as long as they were, unless length was asked for.",
    meaning="Length is the first thing that a reward model over-rates.",
    cannot_tell="Whether longer or shorter answers are better here.",
)
def answers_longer_or_shorter(run: RunRecord) -> Seen | None:
    after, before = (figures.get("length") for figures in both(run))
    if not after or not before or abs(after / before - 1) <= 0.25:
        return None
    return Seen(f"answers went from {before:.1f} to {after:.1f} tokens", None, after, signal="length")


@rule(
    "reward-follows-length",
    kind="level",
    stages=EVALUATE,
    severity="note",
    expected=Expected(
        "under 0.3, or within 0.1 of the reference's",
        "correlation",
        "Pearson, of reward and length",
        "answers to test prompts",
        "our levels; Singhal 2023",
    ),
    broke="The reward follows length no more than it did.",
    meaning="Where the answers that score high are the long ones, the policy may have learnt length.",
    cannot_tell="Whether longer answers are the better ones.",
)
def reward_follows_length(run: RunRecord) -> Seen | None:
    after, before = (figures.get("length_reward_correlation") for figures in both(run))
    if after is None or before is None or after <= 0.3 or after <= before + 0.1:
        return None
    said = f"reward and length correlate by {after:.2f}, in the reference's answers by {before:.2f}"
    return Seen(said, None, after, signal="length_reward_correlation")
