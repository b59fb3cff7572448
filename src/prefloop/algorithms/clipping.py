"""The policy losses that are clipped by the importance ratio: of each token (PPO, GRPO), or of each sequence (RLOO).

A method that inherits one of them says how it makes advantages, and no method writes the loss again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from prefloop.algorithms.base import Loss, Positive
from prefloop.algorithms.penalty import KlPenalty
from prefloop.batch import CreditedBatch, PolicyOutput
from prefloop.ops.aggregate import Aggregation, aggregated, aggregation_weight
from prefloop.ops.clip import clipped_policy_loss
from prefloop.ops.masked import masked_mean, masked_sum
from prefloop.ops.ratio import ratio_metrics


@dataclass(frozen=True)
class RatioClip(KlPenalty):
    """Holds the options of the clip beside those of the KL, each with its usual range.

    clip:      how far the ratio may fall below 1, and rise above it; 0.1 to 0.3
    clip_high: how far it may rise, where that is another bound; 0.28 in DAPO
    dual_clip: where an advantage is negative, the ratio counts at most this much; 3 in Ye 2020
    """

    clip: Positive = 0.2
    clip_high: Positive | None = None
    dual_clip: Annotated[float, Field(gt=1)] | None = None

    def clipped(self, logp: Tensor, old_logp: Tensor, advantage: Tensor) -> tuple[Tensor, Tensor]:
        return clipped_policy_loss(logp, old_logp, advantage, self.clip, self.clip_high, self.dual_clip)


@dataclass(frozen=True)
class TokenRatio(RatioClip):
    """Clips the ratio of each token. `aggregation` says how the tokens' losses become that of the batch."""

    aggregation: ClassVar[Aggregation] = "token"

    @property
    def divisor(self) -> float:
        """What a sequence's loss is divided by where the aggregation is "constant"."""
        return 1.0

    def weight(self, batch: CreditedBatch) -> Tensor:
        return aggregation_weight(batch.action, self.aggregation)

    def loss(self, out: PolicyOutput, batch: CreditedBatch) -> Loss:
        action = batch.action
        token, cut = self.clipped(out.logp, batch.old_logp, batch.advantage)
        if (penalty := self.loss_penalty(out.logp, batch)) is not None:
            token = token + penalty
        total = aggregated(token, action, self.aggregation, self.divisor)
        moved = ratio_metrics(out.logp, batch.old_logp, action, out.logp - batch.old_logp, cut)
        return Loss(total, {"policy_loss": (total.detach(), self.weight(batch)), **moved})


@dataclass(frozen=True)
class SequenceRatio(RatioClip):
    """Clips the ratio of each sequence as a whole, and all sequences count equally.

    mean: whether the log-ratio of a sequence is the mean over its tokens; it is their sum otherwise
    """

    mean: ClassVar[bool] = False

    def weight(self, batch: CreditedBatch) -> Tensor:
        return torch.tensor(float(len(batch)), device=batch.ids.device)

    def loss(self, out: PolicyOutput, batch: CreditedBatch) -> Loss:
        action, over = batch.action, masked_mean if self.mean else masked_sum
        logp, old = over(out.logp, action, dim=1), over(batch.old_logp, action, dim=1)
        advantage = masked_sum(batch.advantage, action, dim=1) / action.sum(1).clamp(min=1)
        row, cut = self.clipped(logp, old, advantage)
        if (penalty := self.loss_penalty(out.logp, batch)) is not None:
            row = row + over(penalty, action, dim=1)
        moved = ratio_metrics(out.logp, batch.old_logp, action, logp - old, cut)
        return Loss(row.sum(), {"policy_loss": (row.detach().sum(), self.weight(batch)), **moved})
