"""What a metric is, and the metrics of what has bounds: criteria ([align.objective]) and behaviour ([behaviour])."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """name: as in metrics.jsonl, without "eval_"; a trailing * stands for a criterion or a model's role."""

    name: str
    title: str
    unit: str
    meaning: str
    healthy: str
    source: str


CRITERIA = (
    Metric(
        "objective",
        "Objective",
        "sd of the reference's reward",
        "Mean of what is learnt from where criteria have bounds: it moves with the multipliers.",
        "-",
        "-",
    ),
    Metric(
        "constraint_*",
        "Criterion with a bound",
        "the criterion's own",
        "Mean of a criterion that has a bound; low_ is the lower end of its 95 % interval on validation prompts.",
        "over the bound",
        "-",
    ),
    Metric(
        "violation_*",
        "Violation of a bound",
        "sd of the reference's reward",
        "How far the criterion's mean over the last steps is below what is aimed at; negative where it is above.",
        "falls to 0, then about 0 or below",
        "Dai 2023",
    ),
    Metric(
        "multiplier_*",
        "Multiplier of a bound",
        "-",
        "How much the criterion counts beside what is maximised (1): learnt from the violation.",
        "settles; at its largest, the bound cannot be kept",
        "Moskovitz 2023; Dai 2023",
    ),
)

BEHAVIOUR = (
    Metric(
        "behaviour_broken",
        "Broken bounds",
        "bounds",
        "Bounds of [behaviour] max_drop that the policy breaks on validation prompts and sets, or that could not be "
        "checked; such a step is not kept.",
        "0",
        "[behaviour] max_drop",
    ),
    Metric(
        "behaviour_regressed",
        "Checks that got worse",
        "checks and slices",
        "Checks of behaviour by which the policy is worse than the reference, beyond chance (docs/behaviour.md).",
        "0",
        "-",
    ),
    Metric(
        "behaviour_*",
        "Behaviour",
        "that of the check",
        "The figure of one check of behaviour (docs/behaviour.md), on validation prompts.",
        "about the reference's, which is at step 0 of the first round",
        "-",
    ),
)
