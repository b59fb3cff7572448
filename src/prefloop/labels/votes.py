"""Rankings of many items as columns of numbers, which counts and the annotator model are computed from."""

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
Vote = tuple[str, Tiers, Sequence[str]]  # by whom, tiers, order shown

GOLD = "\x00gold"  # the name under which expected answers speak; never a person's


@dataclass(frozen=True)
class Votes:
    """L placements in R rankings by A people of C completions of N items, items with the fewest completions first.

    items, completions, people: [N], [C], [A] ids. The last of `people` is GOLD where there are expected answers.
    item:    [C] which item; the completions of an item are neighbours.
    ranking, completion, tier: [L], a ranking's placements together, best first.
    early:   [L] 1 for the place shown first, 0 for the last; 0 everywhere where the order shown is unknown.
    person, ranking_item: [R].
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
        """The people, without GOLD."""
        return self.people[:-1] if self.has_gold else self.people

    @property
    def placed(self) -> Ints:
        """[R] how many completions each ranking placed."""
        return np.bincount(self.ranking, minlength=len(self.person)).astype(np.int64)

    def by_length(self) -> list[tuple[int, Ints]]:
        """(n, [R,n] rows of the placements) of the rankings that placed n, for every n."""
        placed = self.placed
        first = np.cumsum(placed) - placed
        return [(int(n), first[placed == n][:, None] + np.arange(n)) for n in np.unique(placed)]


@dataclass(frozen=True)
class Pairs:
    """All P pairs of all rankings. better, worse: [P] completions.   tie: [P] bool.   ranking: [P].

    lead: [P] how much earlier `better` was shown: 1 from the first place to the last; 0 where unknown.
    """

    better: Ints
    worse: Ints
    tie: Bools
    ranking: Ints
    lead: Floats


def pairs_of(votes: Votes) -> Pairs:
    """Every ranking's pairs, better first."""
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
    """As how many independent pairs a list of n counts: 1, 2.3, 3.8, 5.4, 12.3 for n = 2, 3, 4, 5, 9.

    The Fisher information of a whole ranking under Plackett-Luce with equal qualities is n - (1 + 1/2 + ... + 1/n),
    that of a pair 1/2.
    """
    return 2 * (n - math.fsum(1 / k for k in range(1, n + 1)))


def collect(items: Sequence[Item], criterion: str, gold: Mapping[str, Tiers] | None = None) -> Votes:
    """The votes of one criterion. Left out: rankings that compare nothing, adjudications, items without any other.

    gold: {item id: expected tiers of completion ids}, best first; completions it does not name are not judged by it.
    """
    kept: list[tuple[Item, list[Vote]]] = []
    for item in items:
        said: list[Vote] = [
            (r.annotator, r.tiers, r.shown) for r in independent(item.rankings) if _useful(r, criterion)
        ]
        if gold and sum(len(tier) for tier in gold.get(item.id, ())) >= 2:
            said.append((GOLD, gold[item.id], ()))
        if said:
            kept.append((item, said))
    names = sorted({who for _, said in kept for who, _, _ in said if who != GOLD})
    has_gold = any(who == GOLD for _, said in kept for who, _, _ in said)
    sized = sorted(((_judged(item, said), item, said) for item, said in kept), key=lambda row: len(row[0]))
    return _columns(sized, [*names, GOLD] if has_gold else names, has_gold)


def _useful(ranking: Ranking, criterion: str) -> bool:
    return ranking.criterion == criterion and sum(len(tier) for tier in ranking.tiers) >= 2


def _judged(item: Item, said: Sequence[Vote]) -> list[str]:
    """The completions that anybody placed, in the item's order."""
    placed = {id for _, tiers, _ in said for tier in tiers for id in tier}
    return [c.id for c in item.completions if c.id in placed]


def _columns(sized: Sequence[tuple[list[str], Item, list[Vote]]], people: list[str], has_gold: bool) -> Votes:
    number = {name: k for k, name in enumerate(people)}
    completions: list[str] = []
    item_of: list[int] = []
    person: list[int] = []
    ranking_item: list[int] = []
    placements: list[tuple[int, int, int]] = []
    early: list[float] = []
    for n, (judged, _, said) in enumerate(sized):
        column = {id: len(completions) + k for k, id in enumerate(judged)}
        completions += judged
        item_of += [n] * len(judged)
        for who, tiers, shown in said:
            when = _earliness(shown)
            known = all(id in when for tier in tiers for id in tier)
            for t, tier in enumerate(tiers):
                for id in tier:
                    placements.append((len(person), column[id], t))
                    early.append(when[id] if known else 0.0)
            person.append(number[who])
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
    """1 for the place shown first, 0 for the last; nothing where the order shown is not known."""
    last = len(shown) - 1
    return {id: 1.0 - place / last for place, id in enumerate(shown)} if last > 0 else {}
