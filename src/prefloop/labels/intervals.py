"""Confidence intervals of a share, in pure numpy: Wilson 1927, and the bootstrap over groups (Efron 1979)."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

FEWEST_GROUPS = 10  # below this the bootstrap is too narrow to be believed
_CELLS = 2_000_000  # drawn at once, to bound memory


def wilson(hits: float, total: float, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of hits / total, for independent trials; (0, 1) for no trials."""
    if total == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + level / 2)
    share = hits / total
    centre = share + z * z / (2 * total)
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def share_interval(
    hits: NDArray[np.float64], totals: NDArray[np.float64], *, resamples: int = 2000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Interval of hits.sum() / totals.sum() when trials hang together within groups (the pairs of one prompt).

    hits, totals: [G] per group. Percentile bootstrap over groups; Wilson's interval where that says nothing: fewer than
    `FEWEST_GROUPS` groups, or every trial with the same outcome.
    """
    hits, totals = hits[totals > 0], totals[totals > 0]
    groups, hit, total = len(totals), float(hits.sum()), float(totals.sum())
    if groups < FEWEST_GROUPS or hit in (0.0, total):
        return wilson(hit, total, level)
    rng = np.random.default_rng(seed)
    shares: list[NDArray[np.float64]] = []
    step = max(1, _CELLS // groups)
    for start in range(0, resamples, step):
        drawn = rng.integers(groups, size=(min(step, resamples - start), groups))
        shares.append(hits[drawn].sum(axis=1) / totals[drawn].sum(axis=1))
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(shares), [tail, 1 - tail])
    return float(low), float(high)
