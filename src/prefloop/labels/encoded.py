"""Encodes what one ranking of K completions says as arrays."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from prefloop.labels.ranking import choice_sets, comparisons
from prefloop.types import Ranking


@dataclass(frozen=True)
class EncodedRanking:
    """Holds what one ranking of K completions says.

    wins, ties [K,K]; its choices, as mask [D,K] and count [D]; numerator [K]
    """

    wins: NDArray[np.float64]
    ties: NDArray[np.float64]
    mask: NDArray[np.bool_]
    count: NDArray[np.float64]
    numerator: NDArray[np.float32]


@lru_cache(maxsize=1 << 10)
def encoded_ranking(tiers: tuple[tuple[int, ...], ...], k: int) -> EncodedRanking:
    """Return what a ranking says. tiers: places in the list, best first.

    Results are cached, because few orders of few completions make up most of what people say.
    """
    named = tuple(tuple(map(str, tier)) for tier in tiers)
    wins, ties = np.zeros((k, k)), np.zeros((k, k))
    for pair in comparisons(Ranking("", "", "", named)):
        better, worse = int(pair.better), int(pair.worse)
        wins[better, worse] += pair.weight * pair.p
        wins[worse, better] += pair.weight * (1.0 - pair.p)
        if pair.p == 0.5:
            ties[better, worse] = ties[worse, better] = pair.weight
    sets = choice_sets(named, [str(column) for column in range(k)])
    return EncodedRanking(wins, ties, sets.mask, sets.weight, sets.numerator.astype(np.float32))
