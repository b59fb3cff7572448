"""Computes the two clipped losses of PPO for each element (Schulman 2017, eq. 7), not summed.

Value clipping is that of OpenAI Baselines.
"""

from __future__ import annotations

import torch
from torch import Tensor


def clipped_policy_loss(
    logp: Tensor,
    old_logp: Tensor,
    advantage: Tensor,
    clip: float,
    clip_high: float | None = None,
    dual_clip: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Return -min(r A, clip(r, 1-clip, 1+clip_high) A) with r = exp(logp - old_logp).

    logp, old_logp, advantage: [..]
    clip_high: the bound above 1 where it is another than that below (DAPO, Yu 2025); None = `clip`
    dual_clip: where A < 0, the loss is held at dual_clip |A|, however large r is (Ye 2020, eq. 5); None = it is not
    returns:   the loss [..], and whether a clip was active [..] bool
    """
    # +-20 nats is beyond any ratio that the clip lets through; it keeps exp() finite when a policy has run away.
    ratio = torch.exp((logp - old_logp).clamp(-20.0, 20.0))
    free = -advantage * ratio
    cut = -advantage * ratio.clamp(1.0 - clip, 1.0 + (clip if clip_high is None else clip_high))
    loss, active = torch.maximum(free, cut), cut > free
    if dual_clip is None:
        return loss, active
    ceiling = -advantage * dual_clip
    held = (advantage < 0) & (loss > ceiling)
    return torch.where(held, ceiling, loss), active | held


def clipped_value_loss(value: Tensor, old_value: Tensor, returns: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """Return half the larger of the squared errors of `value` and of `value` held within `clip` of `old_value`."""
    near = old_value + (value - old_value).clamp(-clip, clip)
    free = (value - returns) ** 2
    cut = (near - returns) ** 2
    return 0.5 * torch.maximum(free, cut), cut > free
