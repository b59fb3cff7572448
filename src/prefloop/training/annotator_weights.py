"""Decides whose rankings a reward model learns from, and how much each counts (`[reward] annotators`).

    all        takes every ranking as it is.
    weighted   counts a ranking as its author's weight in the annotator model (`labels.reliability`), 1 on average. To
               first order that is what the model's own likelihood does: the slope of log P at equal scores is beta / 2.
    majority   makes one ranking of an item, by mean rank over its people.

Nobody's order is reversed: the rankings of somebody with a negative weight are left out. To reverse them would assume
that the person is a perfect mirror of the others. The agreement page shows the evidence. Where a reviewer has
adjudicated an item, `weighted` and `majority` use the reviewer's ranking in place of the others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from prefloop.labels.ranking import current, mean_rank, tiers_from_scores
from prefloop.labels.reliability import fit_reliability
from prefloop.labels.votes import Tiers
from prefloop.results import AnnotatorWeights
from prefloop.types import Item, Ranking

LEAST_WEIGHT = 0.05  # A ranking that counts less is left out, since reading it would cost as much as any other.


@dataclass(frozen=True)
class WeightedRankings:
    """Holds the rankings that a model learns from, and how much each counts.

    weights: {ranking id: how much it counts}
    people:  {annotator: weight}, only where the mode is "weighted"
    warning: why the annotator model could not tell people apart, in which case all count alike
    """

    mode: Literal["all", "weighted", "majority"]
    items: list[Item]
    weights: Mapping[str, float] = field(default_factory=dict)
    people: Mapping[str, float] = field(default_factory=dict)
    left_out: int = 0
    warning: str | None = None

    def counted(self) -> AnnotatorWeights:
        """For the run's result: who counted how much."""
        if self.mode != "weighted":
            return AnnotatorWeights(self.mode, self.left_out)
        return AnnotatorWeights(self.mode, self.left_out, self.warning is None, self.warning, dict(self.people))

    def empty(self, criterion: str) -> str:
        """Return the message for a user for whom no ranking is left to learn from."""
        return (
            f'no ranking by "{criterion}" is left to learn from with [reward] annotators = "{self.mode}": everybody\'s '
            'weight is about 0. Look at the evidence (prefloop agreement), or use annotators = "all"'
        )


def weigh_annotators(
    items: Sequence[Item], criterion: str, mode: Literal["all", "weighted", "majority"], gold: Mapping[str, Tiers]
) -> WeightedRankings:
    """Weigh the rankings of one criterion. Each of `items` must hold at least one, and none of other criteria.

    gold: {item id: expected tiers}. Gold items tell people apart where nobody else ranked the same items.
    """
    if mode == "all":
        return WeightedRankings(mode, list(items))
    if mode == "majority":
        return WeightedRankings(mode, [replace(item, rankings=(_majority(item),)) for item in items])
    return _weighted(items, criterion, gold)


def _majority(item: Item) -> Ranking:
    """Merge an item's rankings by mean rank. Only the largest group that placed the same completions counts."""
    said = _last_word(item.rankings)
    groups: dict[frozenset[str], list[Ranking]] = defaultdict(list)
    for ranking in said:
        groups[frozenset(id for tier in ranking.tiers for id in tier)].append(ranking)
    together = max(groups.values(), key=lambda group: (len(group), len(group[0].tiers)))
    tiers = tiers_from_scores({id: -rank for id, rank in mean_rank(together).items()})
    first = together[0]
    return Ranking(item.id, "majority", first.criterion, tiers, simulated=all(r.simulated for r in together))


def _last_word(rankings: Sequence[Ranking]) -> list[Ranking]:
    said = current(rankings)
    return [r for r in said if r.metadata.get("adjudication")] or said


def _weighted(items: Sequence[Item], criterion: str, gold: Mapping[str, Tiers]) -> WeightedRankings:
    model = fit_reliability(items, criterion, gold)
    if not model.enough:
        warning = f'people who ranked by "{criterion}" all count alike: {model.reason}'
        heard = [replace(item, rankings=tuple(_last_word(item.rankings))) for item in items]
        return WeightedRankings("weighted", heard, people=model.weights, left_out=_lost(items, heard), warning=warning)
    of_person = {name: max(0.0, weight) for name, weight in model.weights.items()}
    raw = {r.id: _weight(r, of_person) for item in items for r in _last_word(item.rankings)}
    kept = {id: weight for id, weight in raw.items() if weight >= LEAST_WEIGHT}
    mean = sum(kept.values()) / max(1, len(kept))
    left = [replace(item, rankings=tuple(r for r in item.rankings if r.id in kept)) for item in items]
    return WeightedRankings(
        "weighted",
        [item for item in left if item.rankings],
        {id: weight / mean for id, weight in kept.items()},
        model.weights,
        _lost(items, left),
    )


def _lost(items: Sequence[Item], left: Sequence[Item]) -> int:
    """Count the rankings that are in `items` and not in `left`."""
    return sum(len(item.rankings) for item in items) - sum(len(item.rankings) for item in left)


def _weight(ranking: Ranking, of_person: Mapping[str, float]) -> float:
    """Return the weight of a ranking.

    A reviewer's adjudication counts as a typical person's ranking, whatever else the reviewer ranked.
    """
    return 1.0 if ranking.metadata.get("adjudication") else of_person.get(ranking.annotator, 1.0)
