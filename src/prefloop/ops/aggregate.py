"""Adds up the losses of tokens to the loss of a batch: what is summed, and what the sum is divided by."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from prefloop.ops.masked import masked_sum

Aggregation = Literal["sequence", "token", "constant"]


def aggregated(token: Tensor, action: Tensor, how: Aggregation, length: float = 1.0) -> Tensor:
    """Return the sum of a batch's losses, to be divided by `aggregation_weight` [].

    token:  [N,T] the loss of each token;  action: [N,T] bool
    how:    "sequence": the mean over each sequence's tokens, so that all sequences count equally (GRPO)
            "token":    the sum over all tokens, so that all tokens count equally (DAPO)
            "constant": the sum over each sequence's tokens by one `length` for all, so that a token counts the same
                        whatever else is in the batch (Dr. GRPO)
    """
    if how == "token":
        return masked_sum(token, action)
    each = masked_sum(token, action, dim=1)
    return (each / (action.sum(1).clamp(min=1) if how == "sequence" else length)).sum()


def aggregation_weight(action: Tensor, how: Aggregation) -> Tensor:
    """Return what the sum is divided by: tokens, or sequences []."""
    if how == "token":
        return action.sum().float()
    return torch.tensor(float(len(action)), device=action.device)
