"""How often two people order a pair the same way: the ceiling for any model of their preferences."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from prefloop.labels.intervals import share_interval
from prefloop.labels.ranking import current, mid_ranks
from prefloop.types import Item


@dataclass(frozen=True)
class Agreement:
    """share:     of the pairs that two people both put in an order, how many they put in the same; None without any.
    low, high: 95 % interval, by bootstrap over items (the pairs of one list are not independent).
    pairs:     how many such pairs of people and completions.
    tie_share: of all pairs in all single rankings, how many are ties; None without any.
    """

    share: float | None
    low: float | None
    high: float | None
    pairs: int
    tie_share: float | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def pairwise_agreement(
    items: Sequence[Item], criterion: str | None = None, *, resamples: int = 2000, seed: int = 0
) -> Agreement:
    """Agreement of different annotators on one criterion; None: each criterion with itself, all pooled."""
    counts = np.array([_count(item, criterion) for item in items], dtype=np.float64).reshape(-1, 4)
    same, untied, ties, judged = counts.sum(axis=0)
    tie_share = float(ties / judged) if judged else None
    if untied == 0:
        return Agreement(None, None, None, 0, tie_share)
    low, high = share_interval(counts[:, 0], counts[:, 1], resamples=resamples, seed=seed)
    return Agreement(float(same / untied), low, high, int(untied), tie_share)


def agreement_by_criterion(items: Sequence[Item], *, resamples: int = 2000, seed: int = 0) -> dict[str, Agreement]:
    """`pairwise_agreement` of every criterion that somebody ranked by, in alphabetical order."""
    criteria = sorted({ranking.criterion for item in items for ranking in item.rankings})
    return {c: pairwise_agreement(items, c, resamples=resamples, seed=seed) for c in criteria}


def _count(item: Item, criterion: str | None) -> tuple[int, int, int, int]:
    """(same order, both untied) over pairs of annotators; (ties, all) over single rankings."""
    asked = [r for r in current(item.rankings) if criterion in (None, r.criterion)]
    ranks = [(r.annotator, r.criterion, mid_ranks(r.tiers)) for r in asked]
    ties = judged = same = untied = 0
    for _, _, placed in ranks:
        gaps = [a - b for a, b in itertools.combinations(placed.values(), 2)]
        judged += len(gaps)
        ties += gaps.count(0.0)
    for (who, what, one), (other_who, other_what, other) in itertools.combinations(ranks, 2):
        if who == other_who or what != other_what:
            continue
        for a, b in itertools.combinations([id for id in one if id in other], 2):
            product = (one[a] - one[b]) * (other[a] - other[b])
            untied += product != 0
            same += product > 0
    return same, untied, ties, judged
