"""Clipped importance sampling policy optimisation: every token keeps its gradient (MiniMax 2025, "M1", eq. 4 and 5).

The loss of a token is -held(ratio) * advantage * logp, where the held ratio is a number without gradient. PPO and GRPO
drop the tokens whose ratio is clipped; here they go on learning, at a weight that is held. On the first update of a
batch, where all ratios are 1, it is the plain policy gradient. The advantage is GRPO's, and all tokens count equally.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from prefloop.algorithms.base import Loss, NotNegative, Positive, Role
from prefloop.algorithms.grouped import Grouped
from prefloop.batch import CreditedBatch, LogprobBatch, PolicyOutput
from prefloop.ops.aggregate import aggregated, aggregation_weight
from prefloop.ops.masked import keep
from prefloop.ops.ratio import LARGEST, ratio_metrics


@dataclass(frozen=True)
class Cispo(Grouped):
    """Holds its option beside those of the group and the KL. The paper has no KL to a reference.

    clip_high: the ratio counts at most 1 + clip_high; below it is free, as in the paper
    """

    kl: NotNegative = 0.0
    clip_high: Positive = 4.0
    name = "cispo"
    trains: tuple[Role, ...] = ("policy",)

    def advantages(self, batch: LogprobBatch) -> Tensor:
        return self.normalised(batch)

    def weight(self, batch: CreditedBatch) -> Tensor:
        return aggregation_weight(batch.action, "token")

    def loss(self, out: PolicyOutput, batch: CreditedBatch) -> Loss:
        action = batch.action
        logp = keep(out.logp, action)
        log_ratio = logp - keep(batch.old_logp, action)
        ratio = torch.exp(log_ratio.detach().clamp(-LARGEST, LARGEST))
        highest = 1.0 + self.clip_high
        token = -ratio.clamp(max=highest) * batch.advantage * logp
        if (penalty := self.loss_penalty(out.logp, batch)) is not None:
            token = token + penalty
        total = aggregated(token, action, "token")
        moved = ratio_metrics(out.logp, batch.old_logp, action, log_ratio, ratio > highest)
        return Loss(total, {"policy_loss": (total.detach(), self.weight(batch)), **moved})
