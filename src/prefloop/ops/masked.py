"""Computes sums, means and whitening over a mask. What lies outside the mask is never read: it may be NaN."""

from __future__ import annotations

import torch
from torch import Tensor


def keep(x: Tensor, mask: Tensor) -> Tensor:
    """Return `x` inside the mask, 0 outside. It selects and does not multiply, because 0 * nan is nan."""
    return torch.where(mask, x, torch.zeros_like(x))


def masked_sum(x: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Return the sum of `x` [..] over `mask` [..] bool; over all, or over one dimension."""
    kept = keep(x, mask)
    return kept.sum() if dim is None else kept.sum(dim)


def masked_mean(x: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Return the mean of `x` over `mask`; 0 where the mask is empty."""
    count = mask.sum() if dim is None else mask.sum(dim)
    return masked_sum(x, mask, dim) / count.clamp(min=1)


def whiten(x: Tensor, mask: Tensor, shift_mean: bool = True, eps: float = 1e-8) -> Tensor:
    """Scale `x` to unit variance over `mask`; with `shift_mean`, to mean 0 too.

    Rewards are whitened without the shift (their sign matters), advantages with it (Ziegler 2019, code).
    Population variance. Call once on the whole rollout batch, never on a micro-batch.
    """
    mean = masked_mean(x, mask)
    variance = masked_mean((x - mean) ** 2, mask)
    white = (x - mean) * torch.rsqrt(variance + eps)
    return keep(white if shift_mean else white + mean, mask)


def last_index(mask: Tensor) -> Tensor:
    """Return the index of the last true element of each row: mask [N,T] -> [N]; -1 for an empty row."""
    position = torch.arange(mask.shape[1], device=mask.device)
    return torch.where(mask, position, -1).amax(dim=1)


def explained_variance(value: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """Return 1 - Var[returns - value] / Var[returns] over the mask.

    It is 1 for a perfect critic, and 0 for one that always says the mean.
    """

    def variance(x: Tensor) -> Tensor:
        return masked_mean((x - masked_mean(x, mask)) ** 2, mask)

    total = variance(keep(returns, mask))
    left = variance(keep(returns, mask) - keep(value, mask))
    return torch.where(total > 0, 1 - left / total.clamp(min=1e-12), torch.zeros_like(total))
