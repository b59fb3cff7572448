"""The few tests that rules share. Each is a thin wrap of scipy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from prefloop.diagnose.records import Series

WINDOW = 20  # steps that a trend is looked for in


def trend(series: Series, direction: int, window: int = WINDOW) -> float | None:
    """Return how likely chance is to give the last values so clear a rise (direction 1) or fall (-1).

    None for fewer than five values. Mann (1945) and Kendall (1975), as Kendall's tau of values and steps, one-sided.
    """
    if len(series) < 5:
        return None
    steps, values = series.steps[-window:].astype(float), series.values[-window:]
    if np.ptp(values) == 0:
        return None
    return float(stats.kendalltau(steps, values, alternative="greater" if direction > 0 else "less").pvalue)


def corrected(p: Sequence[float]) -> list[float]:
    """Return p-values corrected for asking several questions that may depend (Benjamini and Yekutieli 2001)."""
    return [float(v) for v in stats.false_discovery_control(p, method="by")] if len(p) else []


def spikes(series: Series, times: float, least: float) -> NDArray[np.bool_]:
    """Return [N] bool: which values are so many times the median, and so many times that of the steps just before.

    A curve that begins high and falls has no spike. The first steps are compared with those that follow.
    """
    values = series.values
    around = [values[n - 10 if n > 10 else 0 : n] if n >= 3 else values[n + 1 : n + 6] for n in range(len(values))]
    near = np.array([np.median(some) if len(some) else np.inf for some in around])
    return (values > max(times * float(np.median(values)), least)) & (values > times * near)


def own_range(series: Series, widen: float = 3.0) -> tuple[float, float]:
    """Return (low, high) of a run's first steps: their middle, and `widen` robust standard deviations on each side."""
    head = series.values[: series.head]
    middle = float(np.median(head))
    spread = float(stats.median_abs_deviation(head, scale="normal"))
    spread = max(spread, 0.5 * float(np.ptp(head)), 1e-12)
    return middle - widen * spread, middle + widen * spread


def outside(series: Series, low: float, high: float) -> NDArray[np.bool_]:
    """Return [N] bool: which values are outside a published range and of the run's own first steps."""
    own_low, own_high = own_range(series)
    values = series.values
    return ((values < low) & (values < own_low)) | ((values > high) & (values > own_high))
