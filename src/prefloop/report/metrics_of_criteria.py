"""What a metric is, and the metrics of runs in which criteria have bounds ([align.objective])."""

from __future__ import annotations

from dataclasses import dataclass

from prefloop.report.checks import Check


@dataclass(frozen=True)
class Metric:
    """name: as in metrics.jsonl, without "eval_"; a trailing * stands for a criterion or a model's role."""

    name: str
    title: str
    unit: str
    meaning: str
    healthy: str
    source: str
    check: Check | None = None


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
