"""Counts pairs of all rankings by person and by item: agreement, ties, order shown, length, gold answers, speed."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prefloop.intervals import share_interval
from prefloop.labels.ranking import independent
from prefloop.labels.votes import Floats, Ints, Pairs, Tiers, Votes, collect, pairs_of
from prefloop.types import Item

RESAMPLES = 400  # This many resamples are drawn for one person's share.


@dataclass(frozen=True)
class Counted:
    """Holds a share of `n` pairs with its 95 % interval, by bootstrap over lists; None without any pair.

    Agreement counts a pair once for each other person who put it in an order.
    """

    share: float | None
    low: float | None
    high: float | None
    n: int


class Shares:
    """Holds hits and totals by ranking, for the share of one person (by number) or of everybody."""

    def __init__(self, votes: Votes, ranking: Ints, hits: Floats, totals: Floats):
        rankings = len(votes.person)
        order = np.argsort(votes.person, kind="stable")
        self.hits: Floats = np.bincount(ranking, hits, rankings).astype(np.float64)[order]
        self.totals: Floats = np.bincount(ranking, totals, rankings).astype(np.float64)[order]
        self.edges = np.searchsorted(votes.person[order], np.arange(len(votes.people) + 1))

    def of(self, person: int | None) -> Counted:
        mine = slice(None) if person is None else slice(int(self.edges[person]), int(self.edges[person + 1]))
        hits, totals = self.hits[mine], self.totals[mine]
        total = float(totals.sum())
        if total == 0:
            return Counted(None, None, None, 0)
        low, high = share_interval(hits, totals, resamples=RESAMPLES)
        return Counted(float(hits.sum()) / total, low, high, round(total))


class Tallies:
    """Counts one criterion of some items.

    `judges` is [N]: how many different people ranked each item; the rest are `Shares`.
    """

    def __init__(self, items: Sequence[Item], criterion: str, gold: Mapping[str, Tiers]):
        self.votes = votes = collect(items, criterion)
        by_id = {item.id: item for item in items}
        ranked = [by_id[name] for name in votes.items]
        self.pairs = p = pairs_of(votes)
        seen = np.unique(np.stack([votes.ranking_item, votes.person], axis=1), axis=0)
        self.judges = np.bincount(seen[:, 0], minlength=len(votes.items))
        self.person_items = np.bincount(seen[:, 1], minlength=len(votes.people))
        self.same, self.others = _agreement(votes, p)
        decided = (~p.tie).astype(np.float64)
        length = {c.id: len(c.text) for item in ranked for c in item.completions}
        lengths = np.array([length[id] for id in votes.completions], dtype=np.int64)
        longer = lengths[p.better] - lengths[p.worse]
        expected = _expected(votes, p, gold)
        right = np.where(p.tie, 0.5, expected > 0)

        def shares(hits: Floats, totals: Floats) -> Shares:
            return Shares(votes, p.ranking, hits, totals)

        self.agree = shares(self.same, self.others)
        self.ties = shares(1.0 - decided, np.ones_like(decided))
        self.earlier = shares(decided * (p.lead > 0), decided * (p.lead != 0))
        self.longer = shares(decided * (longer > 0), decided * (longer != 0))
        self.gold = shares(np.where(expected != 0, right, 0.0), (expected != 0).astype(np.float64))
        self._seconds, self._per_word = _durations(ranked, criterion)

    def items_of(self, person: int) -> int:
        return int(self.person_items[person])

    def speed(self, name: str) -> tuple[float | None, float | None]:
        """Return a person's median seconds for an item, and for a word of prompt and completions."""
        if name not in self._seconds:
            return None, None
        return statistics.median(self._seconds[name]), statistics.median(self._per_word[name])

    def agreement_by_item(self) -> list[float | None]:
        """Return [N]: the share of equal orders of two people on a pair; None where nobody can be compared."""
        item = self.votes.ranking_item[self.pairs.ranking]
        same = np.bincount(item, self.same, len(self.votes.items))
        others = np.bincount(item, self.others, len(self.votes.items))
        return [float(s / n) if n else None for s, n in zip(same, others, strict=True)]


def _agreement(votes: Votes, p: Pairs) -> tuple[Floats, Floats]:
    """Return two counts [P] for each pair: how many other people put it in the same order, and how many in any order.

    Both are 0 where the person's own ranking ties the pair. A second ranking of the same item by the same person does
    not count as another person's.
    """
    low, high = np.minimum(p.better, p.worse), np.maximum(p.better, p.worse)
    pair = _number(low * (len(votes.completions) + 1) + high)
    sign = np.where(p.tie, 0, np.where(p.better < p.worse, 1, -1))
    mine = _number(pair * (len(votes.people) + 1) + votes.person[p.ranking])
    same, others = np.zeros(len(pair)), np.zeros(len(pair))
    for side in (1, -1):
        here = (sign == side).astype(np.float64)
        all_here, own_here = np.bincount(pair, here), np.bincount(mine, here)
        left = (all_here[pair] - own_here[mine]) if len(pair) else here
        same += np.where(sign == side, left, 0.0)
        others += np.where(sign != 0, left, 0.0)
    return same, others


def _number(keys: Ints) -> Ints:
    return np.asarray(np.unique(keys, return_inverse=True)[1].reshape(-1), dtype=np.int64)


def _expected(votes: Votes, p: Pairs, gold: Mapping[str, Tiers]) -> NDArray[np.int64]:
    """Return [P]: 1 where the expected answer has the same order, -1 for the opposite order, 0 where it is silent."""
    tier = np.full(len(votes.completions), -1, dtype=np.int64)
    place = {id: k for k, id in enumerate(votes.completions)}
    for tiers in (gold[item] for item in votes.items if item in gold):
        for t, ids in enumerate(tiers):
            for id in ids:
                if id in place:
                    tier[place[id]] = t
    one, other = tier[p.better], tier[p.worse]
    return np.where((one >= 0) & (other >= 0), np.sign(other - one), 0)


def _durations(items: Sequence[Item], criterion: str) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Return the seconds of every timed ranking, and its seconds for a word, by person."""
    seconds: dict[str, list[float]] = defaultdict(list)
    per_word: dict[str, list[float]] = defaultdict(list)
    for item in items:
        words = len(item.prompt.text.split()) + sum(len(c.text.split()) for c in item.completions)
        for r in independent(item.rankings):
            if r.criterion == criterion and r.duration_s is not None:
                seconds[r.annotator].append(r.duration_s)
                per_word[r.annotator].append(r.duration_s / max(1, words))
    return seconds, per_word
