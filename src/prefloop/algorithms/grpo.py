"""Group-relative policy optimisation: the group of a prompt's completions is the baseline (Shao 2024).

The advantage is (r - mean) / std of the group, one number for all tokens of a sequence. The ratio of each token is
clipped. The loss of a sequence is the mean over its tokens, and the loss of a batch is the mean over sequences. The KL
to the reference is taken out of the reward, as k1 of the sequence, *before* the group is normalised. The paper puts a
k3 term in the loss, whose gradient is not that of the reverse KL and whose strength then depends on the group's spread
(`kl_in = "loss"` and `kl_unbiased = false` do that).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from prefloop.algorithms.base import Loss, Role
from prefloop.algorithms.penalty import KlPenalty
from prefloop.batch import CreditedBatch, LogprobBatch, PolicyOutput
from prefloop.ops.clip import clipped_policy_loss
from prefloop.ops.group import constant_groups, group_normalised
from prefloop.ops.masked import keep, masked_sum
from prefloop.ops.ratio import ratio_metrics


@dataclass(frozen=True)
class Grpo(KlPenalty):
    """Holds the options of GRPO beside those of the KL. clip: 0.1 to 0.3."""

    clip: float = 0.2
    name = "grpo"
    trains: tuple[Role, ...] = ("policy",)
    min_k = 2

    def credit(self, batch: LogprobBatch) -> tuple[CreditedBatch, Mapping[str, float]]:
        row = group_normalised(self.penalised(batch), batch.group)
        advantage = keep(row[:, None].expand_as(batch.old_logp), batch.action)
        credited = CreditedBatch(**vars(batch), advantage=advantage, returns=None)
        return credited, {
            "constant_groups": float(constant_groups(batch.reward, batch.group)),
            "kl_coefficient": self.kl,
        }

    def weight(self, batch: CreditedBatch) -> Tensor:
        return torch.tensor(float(len(batch)), device=batch.ids.device)

    def loss(self, out: PolicyOutput, batch: CreditedBatch) -> Loss:
        action, rows = batch.action, self.weight(batch)
        token, cut = clipped_policy_loss(out.logp, batch.old_logp, batch.advantage, self.clip)
        if (penalty := self.loss_penalty(out.logp, batch)) is not None:
            token = token + penalty
        length = action.sum(1).clamp(min=1)
        total = (masked_sum(token, action, dim=1) / length).sum()
        moved = ratio_metrics(out.logp, batch.old_logp, action, out.logp - batch.old_logp, cut)
        return Loss(total, {"policy_loss": (total.detach(), rows), **moved})
