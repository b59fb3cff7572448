"""Computes confidence intervals: Wilson's of a share (1927), and the percentile bootstrap over groups (Efron 1979).

Values that depend on each other, such as the pairs of one prompt, are one group, and a resample draws whole groups.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

FEWEST_GROUPS = 10  # With fewer groups the interval of the bootstrap is too narrow.
POWER = 1.96 + 0.84  # 80 % of evaluations find an effect of so many standard errors, at a level of 5 %.
_CELLS = 2_000_000  # This many numbers are drawn at once, which bounds the memory.


def wilson(hits: float, total: float, level: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval of hits / total for independent trials; (0, 1) where there are no trials."""
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
    """Return the interval of hits.sum() / totals.sum() where the trials of a group depend on each other.

    hits, totals: [G] for each group

    It is the percentile bootstrap over groups, or Wilson's interval where there are fewer than `FEWEST_GROUPS` groups
    or every trial has the same outcome.
    """
    hits, totals = hits[totals > 0], totals[totals > 0]
    groups, hit, total = len(totals), float(hits.sum()), float(totals.sum())
    if groups < FEWEST_GROUPS or hit in (0.0, total):
        return wilson(hit, total, level)
    shares = bootstrap([hits, totals], lambda drawn: drawn[0] / drawn[1], resamples, seed)
    return percentiles(shares, level)


def bootstrap(
    columns: Sequence[NDArray[np.float64]],
    figure: Callable[[Sequence[NDArray[np.float64]]], NDArray[np.float64]],
    resamples: int,
    seed: int,
) -> NDArray[np.float64]:
    """Compute a figure of sums over groups in each resample of the groups. Values that are not finite are left out.

    columns: what is summed, [G] each.  figure: sums of each column over the drawn groups, [B] each, to values [B].
    """
    groups, rng = len(columns[0]), np.random.default_rng(seed)
    values: list[NDArray[np.float64]] = []
    step = max(1, _CELLS // groups)
    for start in range(0, resamples, step):
        drawn = rng.integers(groups, size=(min(step, resamples - start), groups))
        values.append(figure([column[drawn].sum(axis=1) for column in columns]))
    found = np.concatenate(values)
    return found[np.isfinite(found)]


def percentiles(values: NDArray[np.float64], level: float = 0.95) -> tuple[float, float]:
    """Return the interval that holds the middle `level` of the values."""
    tail = (1 - level) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def win_rate(ours: Any, theirs: Any, resamples: int, seed: int) -> dict[str, float]:
    """Return how often an answer of ours scores higher than theirs with the same random numbers; a draw counts half.

    ours, theirs: [N], or [N,k] with k answers a prompt

    The 95 % interval is over the N prompts. Where the bootstrap says nothing, because there are few prompts or all are
    alike, it is Wilson's.
    """
    gap = np.asarray(ours, dtype=float) - np.asarray(theirs, dtype=float)
    wins = ((gap > 0) + 0.5 * (gap == 0)).reshape(len(gap), -1).mean(1)
    if len(wins) < FEWEST_GROUPS or wins.mean() in (0.0, 1.0):
        low, high = wilson(float(wins.sum()), len(wins))
        return _interval(wins, low, high)
    return mean_interval(wins, resamples, seed)


def mean_interval(values: Any, resamples: int, seed: int) -> dict[str, float]:
    """Return the mean of one value a prompt with its 95 % interval.

    It is the percentile bootstrap, or Student's t for few prompts.

    detectable: the effect that four in five such evaluations would have shown, by the spread between prompts. One
    prompt has no spread: its interval is infinite.
    """
    values = np.asarray(values, dtype=float)
    mean, spread = float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else float("inf")
    if spread == 0.0:
        return _interval(values, mean, mean)
    if len(values) < FEWEST_GROUPS:
        half = float(stdtrit(len(values) - 1, 0.975)) * spread / len(values) ** 0.5 if len(values) > 1 else spread
        return _interval(values, mean - half, mean + half)
    from scipy.stats import quantile  # It takes long to load. numpy's differs in the last bit.

    means = bootstrap([values], lambda drawn: drawn[0] / len(values), resamples, seed)
    tail = (1 - 0.95) / 2
    low, high = quantile(means, np.array([tail, 1 - tail]))
    return _interval(values, float(low), float(high))


def part_interval(values: Any, resamples: int, seed: int) -> dict[str, float]:
    """Return the mean of a criterion's values with its 95 % interval over the prompts.

    values: [N], or [N,k] with k answers a prompt

    Where every answer has 0, or every one 1, the spread says nothing, and the interval is Wilson's: a rule that no
    answer of 40 breaks may still be broken by some.
    """
    values = np.asarray(values, dtype=float)
    means = values.reshape(len(values), -1).mean(1)
    if means.min() == means.max() and means[0] in (0.0, 1.0):
        return _interval(means, *wilson(float(means.sum()), len(means)))
    return mean_interval(means, resamples, seed)


def _interval(values: NDArray[np.float64], low: float, high: float) -> dict[str, float]:
    """Return a mean with its interval and the detectable effect.

    The standard error is that between prompts, or that of the interval.
    """
    error = float(values.std(ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 0.0
    error = error or (high - low) / (2 * 1.96)
    return {"mean": float(values.mean()), "low": low, "high": high, "n": len(values), "detectable": POWER * error}
