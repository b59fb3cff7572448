"""Checks one person's tiers, derives comparisons and choices from them, and merges the tiers of several people.

The model of Plackett (1975) and Luce (1959) does not have ties as an outcome of their own, unlike Davidson's or that of
Rao and Kupper. A tie says only that the person gave no order, so its negative log-likelihood is averaged over the
orders that it leaves open.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from prefloop.errors import DataError
from prefloop.types import ACCEPTABLE, Comparison, Ranking

# A tier of this size has 2^8 - 1 = 255 choices; a larger tier of m uses m(m-1)+1 of its 2^m - 1.
LARGEST_EXACT_TIER = 8


def check(ranking: Ranking, completion_ids: Sequence[str], *, allow_partial: bool = True) -> None:
    """Raise DataError unless `ranking` is a usable answer about `completion_ids`.

    allow_partial: whether completions may stay unranked; if not, each must have a tier or be marked unacceptable.
    A ranking that places fewer than two says nothing about preference, so it must say something else: that none is
    acceptable, or which are not.
    """
    where = f"ranking of item {ranking.item_id} by {ranking.annotator} ({ranking.criterion})"
    ranked = [id for tier in ranking.tiers for id in tier]
    named = {"tiers": ranked, "unacceptable": ranking.unacceptable, "shown": ranking.shown, "ratings": ranking.ratings}
    for part, ids in named.items():
        _check_ids(list(ids), completion_ids, f"{where}: {part}")
    if not all(ranking.tiers):
        raise DataError(f"{where}: tier {ranking.tiers.index(()) + 1} is empty. Leave empty tiers out.")
    if len(ranked) < 2 and not (ranking.none_acceptable or ranking.unacceptable):
        raise DataError(
            f"{where}: {len(ranked)} of {len(completion_ids)} completions ranked, which compares nothing. "
            "Rank at least two, or say which are unacceptable."
        )
    placed = {*ranked, *ranking.unacceptable}
    unplaced = [id for id in completion_ids if id not in placed]
    if unplaced and not allow_partial and not (ranking.none_acceptable and not ranked):
        raise DataError(
            f"{where}: no place for {', '.join(unplaced)}. Place every completion, or allow partial rankings."
        )


def _check_ids(ids: Sequence[str], known: Sequence[str], where: str) -> None:
    seen: set[str] = set()
    for id in ids:
        if id not in known:
            raise DataError(f"{where}: no completion has the id {id!r}. The item's ids are {', '.join(known)}.")
        if id in seen:
            raise DataError(f"{where}: {id!r} is named twice. Name each completion once.")
        seen.add(id)


def current(rankings: Sequence[Ranking]) -> list[Ranking]:
    """Return the rankings that no other one supersedes, in order: an edit replaces the ranking that it edits."""
    superseded = {r.supersedes for r in rankings if r.supersedes}
    return [r for r in rankings if r.id not in superseded]


def independent(rankings: Sequence[Ranking]) -> list[Ranking]:
    """Return the current rankings of people who had not seen the others': reviewers' adjudications are left out."""
    return [r for r in current(rankings) if not r.metadata.get("adjudication")]


def comparisons(ranking: Ranking) -> list[Comparison]:
    """Return all pairs of ranked ids, better first; p is 0.5 for a tie.

    The weights sum to one, whatever the list's length.
    """
    ranked = [(id, tier) for tier, ids in enumerate(ranking.tiers) for id in ids]
    pairs = list(itertools.combinations(ranked, 2))
    return [Comparison(a, b, p=1.0 if i < j else 0.5, weight=1.0 / len(pairs)) for (a, i), (b, j) in pairs]


def good_and_bad(ranking: Ranking) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the ids that a ranking says are good, and those that it says are bad.

    Of a label, by the criterion "acceptable", they are what it says. Of an order of two tiers or more they are the best
    tier and the worst one. A completion that was marked unacceptable is bad, and good in no case.
    """
    ranked = tuple(id for tier in ranking.tiers for id in tier)
    if ranking.none_acceptable:
        return (), tuple(dict.fromkeys((*ranked, *ranking.unacceptable)))
    best: tuple[str, ...] = ()
    worst = ranking.unacceptable
    if ranking.criterion == ACCEPTABLE:
        best = ranked
    elif len(ranking.tiers) > 1:
        best, worst = ranking.tiers[0], (*ranking.tiers[-1], *worst)
    return tuple(id for id in best if id not in ranking.unacceptable), tuple(dict.fromkeys(worst))


@dataclass(frozen=True)
class ChoiceSets:
    """Holds the Plackett-Luce likelihood of one ranking as a weighted set of choices.

    nll(s) = sum_d weight[d] * logsumexp(s[mask[d]]) - sum_k numerator[k] * s[k]

    ids:       [K] the completion of each column
    mask:      [D, K] bool: the completions that each choice is made from; at least two, never an unranked completion
    weight:    [D] sums to (ranked completions - 1)
    numerator: [K] how often each is chosen, in expectation; it sums to the same, so a shift of all scores changes
    nothing
    """

    ids: tuple[str, ...]
    mask: NDArray[np.bool_]
    weight: NDArray[np.float64]
    numerator: NDArray[np.float64]

    @property
    def members(self) -> list[tuple[int, ...]]:
        """Return the columns of each choice, which is the mask as D tuples of indices."""
        return [tuple(int(k) for k in np.flatnonzero(row)) for row in self.mask]

    def nll(self, scores: NDArray[np.float64]) -> float:
        """Return the negative log-likelihood in nats at scores [K]. This is the slow twin of the loss in `ops`."""
        denominators = [w * float(logsumexp(scores[m])) for w, m in zip(self.weight, self.mask, strict=True)]
        chosen = np.where(self.numerator > 0, self.numerator * scores, 0.0)
        return math.fsum(denominators) - float(chosen.sum())


def choice_sets(tiers: Sequence[Sequence[str]], columns: Sequence[str] | None = None) -> ChoiceSets:
    """Return the choices whose likelihood is the expected Plackett-Luce nll over all orders that the tiers leave open.

    columns: the ids in the order wanted for K; unranked ones are in no choice. None means the ranked ids as listed.

    Take a tier of m items and the set R of strictly worse ones. The tier is drawn in random order, and every remainder
    S of it with |S| = n is equally likely, so the choice from S and R has weight 1/C(m, n). Tiers of more than
    `LARGEST_EXACT_TIER` take the m rotations of their column order instead of all m! orders: S runs over the cyclic
    intervals, m of each length. For two completions this is Bradley-Terry, in which a tie is half a win and half a
    loss.
    """
    ids = tuple(columns) if columns is not None else tuple(id for tier in tiers for id in tier)
    column = {id: k for k, id in enumerate(ids)}
    choices: dict[frozenset[int], float] = {}
    numerator = np.zeros(len(ids))
    worse: frozenset[int] = frozenset()
    for tier in reversed(tiers):
        members = sorted(column[id] for id in tier)
        numerator[members] = 1.0
        for remainder, weight in _remainders(members):
            choice = worse | remainder
            if len(choice) > 1:
                choices[choice] = weight
            else:  # A choice from one completion is certain, so it and its numerator cancel.
                numerator[members] -= weight * np.isin(members, list(choice))
        worse = worse | frozenset(members)
    mask = np.zeros((len(choices), len(ids)), dtype=bool)
    for d, choice in enumerate(choices):
        mask[d, list(choice)] = True
    return ChoiceSets(ids, mask, np.array(list(choices.values()), dtype=np.float64), numerator)


def _remainders(members: Sequence[int]) -> Iterator[tuple[frozenset[int], float]]:
    """Yield what may be left of a tier while it is drawn from, with its expected count."""
    m = len(members)
    if m <= LARGEST_EXACT_TIER:
        for size in range(m, 0, -1):
            for subset in itertools.combinations(members, size):
                yield frozenset(subset), 1.0 / math.comb(m, size)
        return
    yield frozenset(members), 1.0
    for size in range(m - 1, 0, -1):
        for start in range(m):
            yield frozenset(members[(start + i) % m] for i in range(size)), 1.0 / m


def mid_ranks(tiers: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return each id's rank: 1 is best, and the ids of a tier share the mean of the ranks they take up."""
    ranks: dict[str, float] = {}
    for tier in tiers:
        rank = len(ranks) + (len(tier) + 1) / 2
        ranks.update(dict.fromkeys(tier, rank))
    return ranks


def mean_rank(rankings: Sequence[Ranking]) -> dict[str, float]:
    """Return mid-ranks averaged over the rankings that placed each id, for one item and criterion. Raises DataError.

    Rank 2 of 2 and rank 2 of 5 count alike here, so prefer `consensus_pairs` for partial rankings.
    """
    ranks: dict[str, list[float]] = {}
    for ranking in _one_question(rankings):
        for id, rank in mid_ranks(ranking.tiers).items():
            ranks.setdefault(id, []).append(rank)
    return {id: sum(values) / len(values) for id, values in ranks.items()}


@dataclass(frozen=True)
class ConsensusPair:
    """States that `better` beats `worse` by `margin` mean ranks over `judges` people who placed both."""

    better: str
    worse: str
    margin: float
    judges: int


@dataclass(frozen=True)
class Consensus:
    """Holds what several people say together: the decided pairs, and the pairs that they leave equal."""

    pairs: tuple[ConsensusPair, ...]
    ties: tuple[tuple[str, str], ...]


def consensus_pairs(rankings: Sequence[Ranking]) -> Consensus:
    """Return all pairs of one item by mean rank over the people who placed both. Raises DataError for two criteria.

    With complete rankings that is the difference of `mean_rank`. A pair that nobody placed both of is in neither list.
    """
    ranks = [mid_ranks(ranking.tiers) for ranking in _one_question(rankings)]
    ids = list(dict.fromkeys(id for placed in ranks for id in placed))
    pairs: list[ConsensusPair] = []
    ties: list[tuple[str, str]] = []
    for a, b in itertools.combinations(ids, 2):
        gaps = [placed[b] - placed[a] for placed in ranks if a in placed and b in placed]
        if not gaps:
            continue
        # The gaps are multiples of a half and sums of them are exact, so the test for equality is safe.
        total = sum(gaps)
        if total == 0:
            ties.append((a, b))
        else:
            better, worse = (a, b) if total > 0 else (b, a)
            pairs.append(ConsensusPair(better, worse, abs(total) / len(gaps), len(gaps)))
    return Consensus(tuple(pairs), tuple(ties))


def _one_question(rankings: Sequence[Ranking]) -> Sequence[Ranking]:
    asked = sorted({(r.item_id, r.criterion) for r in rankings})
    if len(asked) > 1:
        raise DataError(f"cannot merge rankings of different items or criteria: {asked[0]} and {asked[1]}. Group them.")
    return rankings


def tiers_from_scores(scores: Mapping[str, float], tie_threshold: float = 0.0) -> tuple[tuple[str, ...], ...]:
    """Return tiers, best first; neighbours tie where their scores are equal or closer than `tie_threshold`.

    Ties chain: a tier may span more than the threshold. Raises DataError, which names an id whose score is not finite.
    """
    for id, score in scores.items():
        if not math.isfinite(score):
            raise DataError(f"the score of {id} is {score}. Give each completion a finite score, or leave it out.")
    tiers: list[list[str]] = []
    last = math.inf
    for id, score in sorted(scores.items(), key=lambda pair: -pair[1]):
        if tiers and (score == last or last - score < tie_threshold):
            tiers[-1].append(id)
        else:
            tiers.append([id])
        last = score
    return tuple(tuple(tier) for tier in tiers)
