"""Measures how well a reward model orders what people ordered, for any reward model and any lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from prefloop.config import Model, Reward
from prefloop.errors import NothingToDoError
from prefloop.labels.preference_eval import PairReport, pair_accuracy
from prefloop.models.reward import load_reward_model
from prefloop.project.left_out import LeftOut
from prefloop.results import EvaluatedReward
from prefloop.training.lengths import Lengths
from prefloop.training.reward_scores import score_items
from prefloop.types import Item

SHOWN = 10  # reasons in the result


def heldout_figures(report: PairReport) -> dict[str, float]:
    """Return two figures of a report, which a training run logs at each evaluation.

    They are {} without a decided pair.
    """
    if report.accuracy is None:
        return {}
    return {"heldout_accuracy": report.accuracy, "heldout_log_loss": report.log_loss or float("nan")}


def pair_accuracies(source: str, items: Sequence[Item], file: Path, rejected: Sequence[str]) -> EvaluatedReward:
    """The accuracy of any reward model on the rankings of a file, by criterion. NothingToDoError without any pair.

    rejected: why rows of the file could not be used.
    """
    comparable = [i for i in items if len(i.completions) > 1 and i.rankings]
    if not comparable:
        raise NothingToDoError("the file holds no ranking of two or more completions: there is nothing to measure")
    model, tokenization = load_reward_model(source, Model())
    left_out = LeftOut()
    lengths = Lengths(None, tokenization, model.max_tokens)
    comparable = lengths.telling(left_out.accepted([tokenization], comparable, "lists"))
    scores = score_items(model, tokenization, comparable, Reward().scored_budget, "cpu")
    criteria = sorted({r.criterion for i in comparable for r in i.rankings})
    reports = {}
    for criterion in criteria:
        mine = [replace(i, rankings=tuple(r for r in i.rankings if r.criterion == criterion)) for i in comparable]
        reports[criterion] = pair_accuracy(scores, [i for i in mine if i.rankings], criterion)
    return EvaluatedReward(
        model=source,
        items=len(comparable),
        trained_on=model.criterion,
        criteria=reports,
        left_out=left_out.counted(),
        cut=lengths.counted(),
        file=str(file),
        rejected=len(rejected),
        reasons=tuple(rejected[:SHOWN]),
    )
