"""The curve of over-optimisation (Gao, Schulman and Hilton 2023), fitted to a run's own evaluations.

With d the square root of the KL to the reference, the reward by an independent judge follows d (alpha - beta ln d) for
reinforcement learning. Divided by d it is linear in alpha and beta, so that weighted least squares fits it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from prefloop.diagnose.records import Array

LEAST = 5  # points; two are the curve's own
NEAR = 0.3  # points nearer to the reference than this d are left out: the curve has an infinite slope at 0


@dataclass(frozen=True)
class Curve:
    """Holds alpha, beta of d (alpha - beta ln d).  peak_kl: nats at which it is highest.  peak: its height there."""

    alpha: float
    beta: float
    peak_kl: float
    peak: float


def fit(kl: Array, gain: Array) -> Curve | None:
    """Return the curve through (KL, gain over the reference), both [N]; None where it is not told by so few points.

    None too where the curve has no peak (beta is not positive), or one far outside of what was seen.
    """
    d = np.sqrt(np.maximum(kl, 0.0))
    kept = d > NEAR
    if kept.sum() < LEAST:
        return None
    d, gain = d[kept], gain[kept]
    # residuals of gain, not of gain / d: each row is weighted by d
    design = np.stack([d, -d * np.log(d)], axis=1)
    (alpha, beta), *_ = np.linalg.lstsq(design, gain, rcond=None)
    if beta <= 0 or not math.isfinite(alpha / beta):
        return None
    peak_d = math.exp(min(alpha / beta - 1, 50.0))
    if peak_d > 2 * float(d.max()):
        return None
    return Curve(float(alpha), float(beta), peak_d**2, float(beta * peak_d))
