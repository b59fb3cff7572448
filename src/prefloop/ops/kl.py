"""Estimators of KL(policy || reference) from sampled tokens (Schulman 2020, "Approximating KL divergence").

With d = logp - ref_logp on tokens sampled from the policy: k1 = d (unbiased, high variance), k2 = d^2 / 2 (biased,
but its gradient is right on-policy), k3 = exp(-d) - 1 + d (unbiased and never negative; as a *loss* its gradient is
not that of the reverse KL).
"""

from __future__ import annotations

import torch
from torch import Tensor


def k1(logp: Tensor, ref_logp: Tensor) -> Tensor:
    return logp - ref_logp


def k2(logp: Tensor, ref_logp: Tensor) -> Tensor:
    return 0.5 * (logp - ref_logp) ** 2


def k3(logp: Tensor, ref_logp: Tensor) -> Tensor:
    # Below -20 nats exp(-d) overflows into infinite gradients; such a token says "far away" either way.
    d = (logp - ref_logp).clamp(min=-20.0)
    return torch.expm1(-d) + d


def entropy_bonus(logp: Tensor) -> Tensor:
    """Return logp^2 / 2 of sampled tokens, whose gradient is that of the negative entropy, on average over samples.

    The estimator -logp of the entropy has a gradient of mean 0; k2 is to k1 as this is to it.
    """
    return 0.5 * logp**2


def adapt_coefficient(coefficient: float, kl: float, target: float, batch: int, horizon: float) -> float:
    """Return the next KL coefficient of a proportional controller (Ziegler 2019, eq. 3), its error clipped to +-0.2.

    kl, target: nats a sequence
    batch:      sequences seen since the last call
    horizon:    sequences
    """
    error = min(max(kl / target - 1.0, -0.2), 0.2)
    return coefficient * (1.0 + error * batch / horizon)
