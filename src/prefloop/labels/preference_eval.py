"""Measures how well scores order what people ordered: accuracy, also by margin and against length, and calibration.

The truth about a pair is the mean rank over its judges. Pairs of equal mean ranks are left out of the accuracy and
reported apart. Calibration compares with single judges, because sigmoid(gap) is the chance that *one* person prefers a
completion.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from prefloop.errors import DataError
from prefloop.intervals import share_interval
from prefloop.labels.ranking import consensus_pairs, current, mid_ranks
from prefloop.types import Item, Ranking

MARGIN_EDGES = (0.0, 0.5, 1.0, 2.0, 3.0, math.inf)  # in ranks; a bin holds low < margin <= high
CALIBRATION_BINS = 10


@dataclass(frozen=True)
class Share:
    """Holds a share of `pairs` pairs; it is None where there are none. A draw counts half."""

    share: float | None
    pairs: int


@dataclass(frozen=True)
class MarginBin:
    """Holds the accuracy on pairs whose mean ranks differ by more than `low` and at most `high` (None: no limit)."""

    low: float
    high: float | None
    pairs: int
    accuracy: float | None


@dataclass(frozen=True)
class CalibrationBin:
    """Holds the votes on pairs for which sigmoid(gap) of the higher score is in [low, high).

    predicted is the mean of sigmoid(gap), and observed is the share of votes that the higher score won.
    """

    low: float
    high: float
    votes: int
    predicted: float | None
    observed: float | None


@dataclass(frozen=True)
class PairReport:
    """accuracy:         share of decided pairs that the scores order as people do; equal scores count half.
    low, high:        its 95 % interval, by bootstrap over prompts.
    vote_accuracy:    the same against each single judge's untied pairs: what annotator agreement is the ceiling of.
    pairs, prompts:   how many decided pairs, over how many prompts.
    ties:             pairs of equal mean rank, left out of the accuracy.
    tie_gap:          mean |score gap| on those; pair_gap on the decided ones. Good scores are closer on ties.
    longer_wins:      accuracy of preferring the longer text: the baseline to beat.
    longer_won, shorter_won: accuracy of the scores where people preferred the longer / the shorter text.
    calibration, ece: predicted against observed share, oriented to the higher score, ties half a win; the expected
                      calibration error is the mean |predicted - observed| over votes.
    log_loss:         mean nats a vote (ties half); log 2 = 0.693 is chance.
    """

    criterion: str
    accuracy: float | None
    low: float | None
    high: float | None
    pairs: int
    prompts: int
    vote_accuracy: Share
    ties: int
    tie_gap: float | None
    pair_gap: float | None
    longer_wins: Share
    longer_won: Share
    shorter_won: Share
    by_margin: tuple[MarginBin, ...]
    calibration: tuple[CalibrationBin, ...]
    ece: float | None
    log_loss: float | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def pair_accuracy(
    scores: Mapping[str, float], items: Sequence[Item], criterion: str, *, resamples: int = 2000, seed: int = 0
) -> PairReport:
    """Compare scores, by completion id, with the rankings of `items` by one criterion.

    Only completions that somebody ranked need a score; the rankings' own ids are used, so scores are never matched by
    position. Raises DataError, which names a ranked completion without a finite score.
    """
    pairs = _Pairs(scores)
    for item in items:
        rankings = [r for r in current(item.rankings) if r.criterion == criterion]
        if rankings:
            pairs.add(item, rankings)
    return _report(pairs, criterion, resamples, seed)


class _Pairs:
    """Holds pairs as columns: P decided pairs, T ties, V single votes."""

    def __init__(self, scores: Mapping[str, float]) -> None:
        self.scores = scores
        self.prompt: list[str] = []  # [P]
        self.gap: list[float] = []  # [P] score of the preferred completion less that of the other one
        self.margin: list[float] = []  # [P] difference in mean ranks
        self.longer: list[int] = []  # [P] characters of the preferred completion less those of the other one
        self.tie_gap: list[float] = []  # [T] absolute difference in score
        # [V] score of the first completion less that of the second, as the judge listed them
        self.vote_gap: list[float] = []
        self.vote: list[float] = []  # [V] 1 where the first one is preferred, 0.5 for a tie

    def add(self, item: Item, rankings: Sequence[Ranking]) -> None:
        length = {completion.id: len(completion.text) for completion in item.completions}
        consensus = consensus_pairs(rankings)
        for pair in consensus.pairs:
            self.prompt.append(item.prompt.id)
            self.gap.append(self._gap(pair.better, pair.worse))
            self.margin.append(pair.margin)
            self.longer.append(length[pair.better] - length[pair.worse])
        self.tie_gap += [abs(self._gap(a, b)) for a, b in consensus.ties]
        for ranking in rankings:
            for (a, first), (b, second) in itertools.combinations(mid_ranks(ranking.tiers).items(), 2):
                self.vote_gap.append(self._gap(a, b))
                self.vote.append(1.0 if first < second else 0.5)

    def _gap(self, a: str, b: str) -> float:
        for id in (a, b):
            if not math.isfinite(self.scores.get(id, math.nan)):
                raise DataError(
                    f"completion {id} was ranked but has no finite score (got {self.scores.get(id)}). "
                    "Score every ranked completion before evaluating."
                )
        return self.scores[a] - self.scores[b]


def _report(pairs: _Pairs, criterion: str, resamples: int, seed: int) -> PairReport:
    gap, longer = np.array(pairs.gap), np.array(pairs.longer, dtype=np.float64)
    votes, vote_gap = np.array(pairs.vote), np.array(pairs.vote_gap)
    right = _wins(gap)
    low, high = _interval(pairs.prompt, right, resamples, seed)
    bins, ece = _calibration(vote_gap, votes)
    log_loss = np.logaddexp(0.0, -vote_gap) + (1 - votes) * vote_gap  # -v log p - (1 - v) log(1 - p)
    return PairReport(
        criterion=criterion,
        accuracy=_mean(right),
        low=low,
        high=high,
        pairs=len(right),
        prompts=len(set(pairs.prompt)),
        vote_accuracy=_share(_wins(vote_gap[votes == 1.0])),
        ties=len(pairs.tie_gap),
        tie_gap=_mean(np.array(pairs.tie_gap)),
        pair_gap=_mean(np.abs(gap)),
        longer_wins=_share(_wins(longer)),
        longer_won=_share(right[longer > 0]),
        shorter_won=_share(right[longer < 0]),
        by_margin=_by_margin(np.array(pairs.margin), right),
        calibration=bins,
        ece=ece,
        log_loss=_mean(log_loss),
    )


def _wins(gap: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((np.sign(gap) + 1.0) / 2.0, dtype=np.float64)  # Equal scores count as half.


def _mean(values: NDArray[np.float64]) -> float | None:
    return float(values.mean()) if len(values) else None


def _share(wins: NDArray[np.float64]) -> Share:
    return Share(_mean(wins), len(wins))


def _interval(
    prompts: Sequence[str], right: NDArray[np.float64], resamples: int, seed: int
) -> tuple[float | None, float | None]:
    if not prompts or not resamples:  # A quick look asks for no resamples, and needs no interval.
        return None, None
    groups: dict[str, list[float]] = defaultdict(list)
    for prompt, win in zip(prompts, right, strict=True):
        groups[prompt].append(float(win))
    hits = np.array([sum(wins) for wins in groups.values()], dtype=np.float64)
    totals = np.array([len(wins) for wins in groups.values()], dtype=np.float64)
    return share_interval(hits, totals, resamples=resamples, seed=seed)


def _by_margin(margin: NDArray[np.float64], right: NDArray[np.float64]) -> tuple[MarginBin, ...]:
    bins: list[MarginBin] = []
    for low, high in itertools.pairwise(MARGIN_EDGES):
        inside = right[(margin > low) & (margin <= high)]
        bins.append(MarginBin(low, high if math.isfinite(high) else None, len(inside), _mean(inside)))
    return tuple(bins)


def _calibration(
    gap: NDArray[np.float64], vote: NDArray[np.float64]
) -> tuple[tuple[CalibrationBin, ...], float | None]:
    """Return the calibration bins and error. Each vote is turned to the higher score's side; equal scores win half.

    Predictions therefore run from 0.5 to 1.
    """
    predicted = expit(np.abs(gap))
    won = np.where(gap > 0, vote, np.where(gap < 0, 1 - vote, 0.5))
    edges = np.linspace(0.5, 1.0, CALIBRATION_BINS + 1)
    index = np.clip(np.searchsorted(edges, predicted, side="right") - 1, 0, CALIBRATION_BINS - 1)
    bins: list[CalibrationBin] = []
    error = 0.0
    for k in range(CALIBRATION_BINS):
        p, o = _mean(predicted[index == k]), _mean(won[index == k])
        votes = int((index == k).sum())
        bins.append(CalibrationBin(float(edges[k]), float(edges[k + 1]), votes, p, o))
        if p is not None and o is not None:
            error += votes * abs(p - o)
    return tuple(bins), error / len(vote) if len(vote) else None
