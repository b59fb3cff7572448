"""Measures how far a policy has moved from the one that sampled: every clipped algorithm reports these figures."""

from __future__ import annotations

import torch
from torch import Tensor

from prefloop.ops.kl import k3
from prefloop.ops.masked import masked_sum

LARGEST = 20.0  # in nats; a larger ratio than e^20 says no more, and exp() stays finite


def importance_weights(logp: Tensor, sampler_logp: Tensor, action: Tensor, cap: float) -> Tensor:
    """Return min(policy / sampler, cap) of each token [N,T], 0 outside of `action` (Ionides 2008; Yao 2025).

    It corrects the mean for samples of another distribution. The cap bounds what a single token can do, at the price of
    a small bias.
    """
    ratio = torch.exp((logp - sampler_logp).clamp(-LARGEST, LARGEST))
    return torch.where(action, ratio.clamp(max=cap), torch.zeros_like(ratio))


def mismatch(logp: Tensor, sampler_logp: Tensor, action: Tensor) -> dict[str, float]:
    """Return how far the sampler's distribution is from the learner's, over the tokens that were sampled [N,T].

    "sampler_prob_error" is the mean of exp |difference|; "sampler_kl" the KL from sampler to learner (k3), in nats a
    token; "sampler_ess" the share of tokens that weights of the ratio would be worth.
    """
    apart = (logp - sampler_logp)[action].clamp(-LARGEST, LARGEST)
    ratio = torch.exp(apart)
    return {
        "sampler_prob_error": float(torch.exp(apart.abs()).mean()),
        "sampler_kl": float(k3(sampler_logp[action], logp[action]).mean()),
        "sampler_ratio": float(ratio.mean()),
        "sampler_ess": float(ratio.sum() ** 2 / (len(ratio) * (ratio**2).sum())),
    }


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
