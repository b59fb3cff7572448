"""Measures how often two people order a pair the same way, which is the ceiling for any model of their preferences.

Beside that share there are Kendall's tau-b (1945), for two people on an item, and Krippendorff's alpha (1970), for all
people. The unit of alpha is a pair of completions with the value -1, 0 (tie) or 1 and the interval metric. Every pair
is counted in both orientations, so that the order in which completions are listed cannot matter. Without ties alpha is
then 2 x agreement - 1, which is also the mean tau, so all three numbers are on one scale. Alpha on ranks would measure
the place in a list instead, and the mean of that is the same for every item by construction.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prefloop.intervals import FEWEST_GROUPS, bootstrap, percentiles, share_interval
from prefloop.labels.ranking import independent, mid_ranks
from prefloop.types import Item


@dataclass(frozen=True)
class Agreement:
    """Says how often two people put the same pair of completions in the same order.

    share:     the share of pairs in the same order, among the pairs that two people both ordered; None without any
    low, high: its 95 % interval, by bootstrap over items (the pairs of one list are not independent)
    pairs:     how many such pairs of people and completions there are
    tie_share: the share of ties among all pairs in all single rankings; None without any
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
    """Return the agreement of different annotators on one criterion; with None, on every criterion, pooled."""
    counts = np.array([_count(item, criterion) for item in items], dtype=np.float64).reshape(-1, 4)
    same, untied, ties, judged = counts.sum(axis=0)
    tie_share = float(ties / judged) if judged else None
    if untied == 0:
        return Agreement(None, None, None, 0, tie_share)
    low, high = share_interval(counts[:, 0], counts[:, 1], resamples=resamples, seed=seed)
    return Agreement(float(same / untied), low, high, int(untied), tie_share)


def agreement_by_criterion(items: Sequence[Item], *, resamples: int = 2000, seed: int = 0) -> dict[str, Agreement]:
    """Return `pairwise_agreement` of every criterion that somebody ranked by, in alphabetical order."""
    criteria = sorted({ranking.criterion for item in items for ranking in item.rankings})
    return {c: pairwise_agreement(items, c, resamples=resamples, seed=seed) for c in criteria}


def _count(item: Item, criterion: str | None) -> tuple[int, int, int, int]:
    """Count (same order, both untied) over pairs of annotators, and (ties, all) over single rankings."""
    rankings = [r for r in independent(item.rankings) if criterion in (None, r.criterion)]
    ranks = [(r.annotator, r.criterion, mid_ranks(r.tiers)) for r in rankings]
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


@dataclass(frozen=True)
class Estimate:
    """Holds a figure with its 95 % interval by bootstrap over items. All are None where there is nothing to measure."""

    value: float | None
    low: float | None
    high: float | None
    n: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def kendall_tau(items: Sequence[Item], criterion: str, *, resamples: int = 2000, seed: int = 0) -> Estimate:
    """Return the mean tau-b of two people on the completions of an item that both placed.

    `n` counts such pairs of people.

    A pair of people of whom one ties everything is left out, because tau-b is undefined for it.
    """
    sums = np.array([_taus(*_signs(item, criterion)) for item in items], dtype=np.float64).reshape(-1, 2)
    total = sums.sum(axis=0)
    if total[1] == 0:
        return Estimate(None, None, None, 0)
    low, high = _interval(sums, lambda drawn: drawn[:, 0] / np.maximum(drawn[:, 1], 1), resamples, seed)
    return Estimate(float(total[0] / total[1]), low, high, int(total[1]))


def pair_alpha(items: Sequence[Item], criterion: str, *, resamples: int = 2000, seed: int = 0) -> Estimate:
    """Return Krippendorff's alpha over pairs of completions; `n` counts the pairs that at least two people judged.

    It is None where no pair was judged by two people, and where nobody ever put anything in an order: alpha is
    undefined without variation.
    """
    tables = [_coincidences(*_signs(item, criterion)) for item in items]
    counted = np.array([table.ravel() for table, _ in tables], dtype=np.float64).reshape(-1, 9)
    value = float(_alphas(counted.sum(axis=0)[None])[0])
    units = sum(units for _, units in tables)
    if not np.isfinite(value):
        return Estimate(None, None, None, units)
    low, high = _interval(counted, _alphas, resamples, seed)
    return Estimate(value, low, high, units)


# This is the squared distance between two people's answers about a pair.
_DISTANCE = np.subtract.outer([-1.0, 0.0, 1.0], [-1.0, 0.0, 1.0]) ** 2


def _alphas(tables: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1 - observed / expected disagreement of coincidence tables [B,9] of -1, 0 and 1; NaN without variation."""
    seen = tables.reshape(-1, 3, 3).sum(axis=1)  # [B,3]
    observed = tables @ _DISTANCE.ravel()
    expected = np.einsum("bi,ij,bj->b", seen, _DISTANCE, seen)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(1.0 - (seen.sum(axis=1) - 1) * observed / expected, dtype=np.float64)


def _signs(item: Item, criterion: str) -> tuple[list[str], NDArray[np.float64]]:
    """Return who ranked, and their signs [people, pairs].

    A sign is 1 where the first completion is better, -1 where the second is, 0 for a tie and NaN where one is unplaced.
    """
    rankings = [r for r in independent(item.rankings) if r.criterion == criterion]
    ids = [c.id for c in item.completions]
    placed = [mid_ranks(r.tiers) for r in rankings]
    ranks = np.array([[p.get(id, np.nan) for id in ids] for p in placed]).reshape(len(rankings), len(ids))
    i, j = np.triu_indices(len(ids), 1)
    return [r.annotator for r in rankings], np.sign(ranks[:, j] - ranks[:, i])


def _taus(people: list[str], signs: NDArray[np.float64]) -> tuple[float, int]:
    """Return the sum and the number of tau-b over pairs of different people."""
    total, count = 0.0, 0
    for a, b in itertools.combinations(range(len(people)), 2):
        both = np.isfinite(signs[a]) & np.isfinite(signs[b])
        untied = float(np.abs(signs[a][both]).sum() * np.abs(signs[b][both]).sum())
        if people[a] != people[b] and untied:
            total += float(signs[a][both] @ signs[b][both]) / untied**0.5
            count += 1
    return total, count


def _coincidences(people: list[str], signs: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
    """Return the coincidence table [3,3] of one item, in both orientations, and how many pairs two people judged."""
    first = [people.index(name) == k for k, name in enumerate(people)]  # Only the first ranking of each person counts.
    counts = np.stack([(signs[first] == value).sum(axis=0) for value in (-1, 0, 1)], axis=1).astype(np.float64)
    counts = counts[counts.sum(axis=1) > 1]  # [pairs,3]
    table = np.zeros((3, 3))
    for both in (counts, counts[:, ::-1]):
        share = both / (both.sum(axis=1, keepdims=True) - 1)
        table += share.T @ both - np.diag(share.sum(axis=0))
    return table, len(counts)


def _interval(
    groups: NDArray[np.float64], figure: Callable[[NDArray[np.float64]], NDArray[np.float64]], resamples: int, seed: int
) -> tuple[float | None, float | None]:
    """Return the 95 % interval of a figure of summed groups [G, columns]; None if there are too few groups."""
    groups = groups[np.abs(groups).sum(axis=1) > 0]
    if len(groups) < FEWEST_GROUPS:
        return None, None
    return percentiles(bootstrap([*groups.T.copy()], lambda drawn: figure(np.stack(drawn, axis=1)), resamples, seed))
