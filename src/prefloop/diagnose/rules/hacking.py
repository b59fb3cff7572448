"""Which surface feature of the answers carries the reward. It audits; it doesn't warn early."""

from __future__ import annotations

from prefloop.diagnose.features import Explained, explained, jackpot
from prefloop.diagnose.finding import Expected
from prefloop.diagnose.records import RunRecord
from prefloop.diagnose.registry import Seen, rule
from prefloop.diagnose.rules.overoptimisation import judge_rose


@rule(
    "feature-carries-reward",
    kind="level",
    live=False,
    expected=Expected(
        "under half of the gain",
        "share of the reward gain",
        "regression within prompts",
        "answers of a run",
        "rewardspy (0.8 for a reward's part); our level",
    ),
    broke="The reward rises because answers are better, not because they are longer or say a certain phrase.",
    meaning="One feature that anybody can count has moved; by regression within prompts it explains most of the gain.",
    cannot_tell="A feature may go with better answers: shorter answers can be the better ones. Read the ten samples.",
)
def feature_carries_reward(run: RunRecord) -> Seen | None:
    found: Explained | None = explained(run.samples)
    if found is None or found.share < 0.5 or judge_rose(run):
        return None
    return Seen(
        f"{found.feature} went from {found.before:.3g} to {found.after:.3g} and explains "
        f"{min(found.share, 1):.0%} of the gain",
        found.since,
        found.share,
        signal=found.feature,
        severity=None if run.series("eval_judge") is not None else "note",  # nobody else has an opinion
    )


@rule(
    "jackpot",
    kind="level",
    live=False,
    expected=Expected(
        "no phrase is worth more than two spreads of the reward",
        "sd of the reward",
        "difference within prompts",
        "answers of a run",
        "our rule",
    ),
    broke="No phrase by itself earns a high reward.",
    meaning="Answers that contain one phrase score far above others to the same prompts, and they have become many. "
    "It is only noted where an independent judge finds the answers better.",
    cannot_tell="Whether the phrase is a good one.",
)
def has_jackpot(run: RunRecord) -> Seen | None:
    found = jackpot(run.samples)
    if found is None:
        return None
    return Seen(
        f"answers with {found.phrase!r} score {found.worth:.1f} spreads more; they went from {found.before:.0%} to "
        f"{found.after:.0%} of the answers",
        found.since,
        found.worth,
        signal="samples",
        severity="note" if judge_rose(run) else None,
    )
