"""REINFORCE leave-one-out: a sequence is one action, and its baseline is the other completions' mean (Ahmadian 2024).

The reward is score - kl * sum over tokens of (old_logp - ref_logp). The ratio is that of the whole sequence, clipped as
in PPO, so that more than one update a batch is possible; on the first update it is plain REINFORCE.
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
from prefloop.ops.group import constant_groups, leave_one_out
from prefloop.ops.masked import keep, masked_sum, whiten
from prefloop.ops.ratio import ratio_metrics


@dataclass(frozen=True)
class Rloo(KlPenalty):
    """Holds the options of RLOO beside those of the KL, each with its usual range.

    clip: 0.1 to 0.3
    whiten_advantages: whether advantages get unit variance over the batch, which is steadier early on
    """

    clip: float = 0.2
    whiten_advantages: bool = False
    name = "rloo"
    trains: tuple[Role, ...] = ("policy",)
    min_k = 2

    def credit(self, batch: LogprobBatch) -> tuple[CreditedBatch, Mapping[str, float]]:
        row = leave_one_out(self.penalised(batch), batch.group)
        if self.whiten_advantages:
            row = whiten(row, torch.ones_like(row, dtype=torch.bool))
        advantage = keep(row[:, None].expand_as(batch.old_logp), batch.action)
        credited = CreditedBatch(**vars(batch), advantage=advantage, returns=None)
        return credited, {
            "constant_groups": float(constant_groups(batch.reward, batch.group)),
            "kl_coefficient": self.kl,
        }

    def weight(self, batch: CreditedBatch) -> Tensor:
        return torch.tensor(float(len(batch)), device=batch.ids.device)

    def loss(self, out: PolicyOutput, batch: CreditedBatch) -> Loss:
        logp = masked_sum(out.logp, batch.action, dim=1)
        old = masked_sum(batch.old_logp, batch.action, dim=1)
        advantage = masked_sum(batch.advantage, batch.action, dim=1) / batch.action.sum(1).clamp(min=1)
        row, cut = clipped_policy_loss(logp, old, advantage, self.clip)
        if (penalty := self.loss_penalty(out.logp, batch)) is not None:
            row = row + masked_sum(penalty, batch.action, dim=1)
        moved = ratio_metrics(out.logp, batch.old_logp, batch.action, logp - old, cut)
        return Loss(row.sum(), {"policy_loss": (row.detach().sum(), self.weight(batch)), **moved})
