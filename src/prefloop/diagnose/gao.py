"""The curve of over-optimisation (Gao, Schulman and Hilton 2023), fitted to a run's own evaluations.

With d the square root of the KL to the reference, the reward by an independent judge follows d (alpha - beta ln d) for
reinforcement learning, and d (alpha - beta d) for best-of-n. Both are linear in alpha and beta, so that weighted least
squares fits them.
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


def both_forms(d: Array, gain: Array, weight: Array, earlier: Array | None = None) -> tuple[Array, Array]:
    """Fit both forms to many resamples at once. Returns (alpha, beta) [2,B,2] of each form, and squared errors [2,B].

    d, gain: [B,E] in each resample, at each evaluation.  weight: [E], one over the variance of each gain
    earlier: alpha and beta of each form [2,2] that earlier runs came to. It is a ridge: they count as much as one
    evaluation of mean weight at d = 1 that tells alpha, and one that tells beta.
    """
    seen = d > NEAR
    weights = np.where(seen, weight, 0.0)
    d = np.where(seen, d, 1.0)
    ridge = 0.0 if earlier is None else float(weight.mean())
    found, errors = [], []
    for form, slope in enumerate((-d * np.log(d), -d * d)):
        before = np.zeros(2) if earlier is None else earlier[form]
        aa, bb = ((weights * x * x).sum(1) + ridge for x in (d, slope))
        ab = (weights * d * slope).sum(1)
        ag, bg = ((weights * x * gain).sum(1) + ridge * was for x, was in zip((d, slope), before, strict=True))
        with np.errstate(all="ignore"):  # One point, or several at one distance, tell no curve: not a number.
            told = np.stack([bb * ag - ab * bg, aa * bg - ab * ag], axis=-1) / (aa * bb - ab * ab)[:, None]
            missed = gain - told[:, :1] * d - told[:, 1:] * slope
            errors.append((weights * missed**2).sum(1))
        found.append(told)
    return np.stack(found), np.stack(errors)


def turning_points(curves: Array, errors: Array) -> Array:
    """Return the distance [B] at which the form that fits a resample better is highest; inf where it has no peak."""
    alpha, beta = curves[..., 0], curves[..., 1]
    with np.errstate(all="ignore"):
        at = np.stack([np.exp(np.minimum(alpha[0] / beta[0] - 1, 50.0)), alpha[1] / (2 * beta[1])])
    at = np.where((alpha > 0) & (beta > 0) & np.isfinite(at), at, np.inf)
    better: Array = np.where(errors[0] <= errors[1], at[0], at[1])
    return better
