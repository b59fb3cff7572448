"""Lays out the rankings of many items as columns of numbers, from which counts and the annotator model are computed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prefloop.labels.ranking import independent
from prefloop.types import Item, Ranking

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Tiers = Sequence[Sequence[str]]
Vote = tuple[str, Tiers, Sequence[str]]  # who ranked, the tiers, the order shown

GOLD = "\x00gold"  # Expected answers are listed under this name, which no person can have.


@dataclass(frozen=True)
class Votes:
    """Holds L placements in R rankings by A people of C completions of N items, beginning with the shortest lists.

    items, completions, people: [N], [C], [A] ids; the last of `people` is GOLD where there are expected answers
    item:    [C] the item of each completion; the completions of an item are neighbours
    ranking, completion, tier: [L]; the placements of a ranking are neighbours, best first
    early:   [L] 1 for the place shown first, 0 for the last; 0 everywhere where the order shown is unknown
    person, ranking_item: [R] who ranked, and which item
    """

    items: tuple[str, ...]
    completions: tuple[str, ...]
    people: tuple[str, ...]
    has_gold: bool
    item: Ints
    ranking: Ints
    completion: Ints
    tier: Ints
    early: Floats
    person: Ints
    ranking_item: Ints

    @property
    def annotators(self) -> tuple[str, ...]:
        """Return the people, without GOLD."""
        return self.people[:-1] if self.has_gold else self.people

    @property
    def placed(self) -> Ints:
        """Return [R]: how many completions each ranking placed."""
        return np.bincount(self.ranking, minlength=len(self.person)).astype(np.int64)

    def by_length(self) -> list[tuple[int, Ints]]:
        """Return (n, [R,n] rows of the placements) of the rankings that placed n, for every n."""
        placed = self.placed
        first = np.cumsum(placed) - placed
        return [(int(n), first[placed == n][:, None] + np.arange(n)) for n in np.unique(placed)]


@dataclass(frozen=True)
class Pairs:
    """Holds all P pairs of all rankings.

    better, worse: [P] completions
    tie:           [P] bool
    ranking:       [P]
    lead:          [P] how much earlier `better` was shown: 1 from the first place to the last; 0 where unknown
    """

    better: Ints
    worse: Ints
    tie: Bools
    ranking: Ints
    lead: Floats


def pairs_of(votes: Votes) -> Pairs:
    """Return the pairs of every ranking, with the better one first."""
    parts = []
    for n, rows in votes.by_length():
        i, j = np.triu_indices(n, 1)
        parts.append(np.stack([rows[:, i].ravel(), rows[:, j].ravel()]))
    one, other = np.concatenate([np.zeros((2, 0), dtype=np.int64), *parts], axis=1)
    return Pairs(
        better=votes.completion[one],
        worse=votes.completion[other],
        tie=votes.tier[one] == votes.tier[other],
        ranking=votes.ranking[one],
        lead=votes.early[one] - votes.early[other],
    )


def worth_in_pairs(n: int) -> float:
    """Return how many independent pairs a list of n is worth: 1, 2.3, 3.8, 5.4, 12.3 for n = 2, 3, 4, 5, 9.

    The Fisher information of a whole ranking under Plackett-Luce with equal qualities is n - (1 + 1/2 + ... + 1/n), and
    that of a pair is 1/2.
    """
    return 2 * (n - math.fsum(1 / k for k in range(1, n + 1)))


def collect(items: Sequence[Item], criterion: str, gold: Mapping[str, Tiers] | None = None) -> Votes:
    """Return the votes of one criterion.

    Three things are left out: rankings that compare nothing, adjudications, and items that have no other ranking.

    gold: {item id: expected tiers of completion ids}, best first; it does not judge completions that it does not name
    """
    kept: list[tuple[Item, list[Vote]]] = []
    for item in items:
        given: list[Vote] = [
            (r.annotator, r.tiers, r.shown) for r in independent(item.rankings) if _useful(r, criterion)
        ]
        if gold and sum(len(tier) for tier in gold.get(item.id, ())) >= 2:
            given.append((GOLD, gold[item.id], ()))
        if given:
            kept.append((item, given))
    names = sorted({annotator for _, given in kept for annotator, _, _ in given if annotator != GOLD})
    has_gold = any(annotator == GOLD for _, given in kept for annotator, _, _ in given)
    sized = sorted(((_judged(item, given), item, given) for item, given in kept), key=lambda row: len(row[0]))
    return _columns(sized, [*names, GOLD] if has_gold else names, has_gold)


def _useful(ranking: Ranking, criterion: str) -> bool:
    return ranking.criterion == criterion and sum(len(tier) for tier in ranking.tiers) >= 2


def _judged(item: Item, given: Sequence[Vote]) -> list[str]:
    """Return the completions that anybody placed, in the item's order."""
    placed = {id for _, tiers, _ in given for tier in tiers for id in tier}
    return [c.id for c in item.completions if c.id in placed]


def _columns(sized: Sequence[tuple[list[str], Item, list[Vote]]], people: list[str], has_gold: bool) -> Votes:
    number = {name: k for k, name in enumerate(people)}
    completions: list[str] = []
    item_of: list[int] = []
    person: list[int] = []
    ranking_item: list[int] = []
    placements: list[tuple[int, int, int]] = []
    early: list[float] = []
    for n, (judged, _, given) in enumerate(sized):
        column = {id: len(completions) + k for k, id in enumerate(judged)}
        completions += judged
        item_of += [n] * len(judged)
        for annotator, tiers, shown in given:
            when = _earliness(shown)
            known = all(id in when for tier in tiers for id in tier)
            for t, tier in enumerate(tiers):
                for id in tier:
                    placements.append((len(person), column[id], t))
                    early.append(when[id] if known else 0.0)
            person.append(number[annotator])
            ranking_item.append(n)
    table = np.array(placements, dtype=np.int64).reshape(-1, 3)
    return Votes(
        items=tuple(item.id for _, item, _ in sized),
        completions=tuple(completions),
        people=tuple(people),
        has_gold=has_gold,
        item=np.array(item_of, dtype=np.int64),
        ranking=table[:, 0],
        completion=table[:, 1],
        tier=table[:, 2],
        early=np.array(early, dtype=np.float64),
        person=np.array(person, dtype=np.int64),
        ranking_item=np.array(ranking_item, dtype=np.int64),
    )


def _earliness(shown: Sequence[str]) -> dict[str, float]:
    """Return {id: 1 for the place shown first, 0 for the last}; empty where the order shown is not known."""
    last = len(shown) - 1
    return {id: 1.0 - place / last for place, id in enumerate(shown)} if last > 0 else {}
