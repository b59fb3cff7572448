"""Measures how far a policy has moved from the one that sampled: every clipped algorithm reports these figures."""

from __future__ import annotations

import torch
from torch import Tensor

from prefloop.ops.kl import k3
from prefloop.ops.masked import masked_sum

LARGEST = 20.0  # in nats; a larger ratio than e^20 says no more, and exp() stays finite


@torch.no_grad()
def ratio_metrics(
    logp: Tensor, old_logp: Tensor, action: Tensor, log_ratio: Tensor, clipped: Tensor
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return metrics as (sum, weight), which add up over parts of a batch.

    logp, old_logp, action: [N,T]; `approx_kl` is nats a token, from the old policy to the new one
    log_ratio, clipped:     those of what the algorithm clips: [N,T] of tokens, or [N] of sequences
    """
    counted = action if log_ratio.dim() == 2 else torch.ones_like(clipped)
    tokens, many = action.sum().float(), counted.sum().float()
    return {
        "clip_fraction": (masked_sum(clipped.float(), counted), many),
        "approx_kl": (masked_sum(k3(old_logp, logp), action), tokens),
        "ratio": (masked_sum(torch.exp(log_ratio.clamp(-LARGEST, LARGEST)), counted), many),
    }
