"""REINFORCE leave-one-out: a sequence is one action, its baseline the other completions' mean (Ahmadian 2024).

Reward: score - kl * sum over tokens of (old_logp - ref_logp). The ratio is that of the whole sequence, clipped as in
PPO, so that more than one update a batch is possible; on the first update it is plain REINFORCE.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from prefloop.algorithms.base import Loss, Role
from prefloop.batch import AnnotatedBatch, CreditedBatch, PolicyOutput
from prefloop.ops.clip import clipped_policy_loss
from prefloop.ops.group import constant_groups, leave_one_out
from prefloop.ops.kl import k1
from prefloop.ops.masked import keep, masked_sum, whiten


@dataclass(frozen=True)
class Rloo:
    """kl: 0.01 to 0.2;  clip: 0.1 to 0.3;  whiten_advantages: unit variance over the batch, steadier early on."""

    kl: float = 0.05
    clip: float = 0.2
    whiten_advantages: bool = False
    name = "rloo"
    trains: tuple[Role, ...] = ("policy",)
    needs: frozenset[Literal["value"]] = frozenset()
    min_k = 2

    def credit(self, batch: AnnotatedBatch) -> tuple[CreditedBatch, Mapping[str, float]]:
        kl = masked_sum(k1(batch.old_logp, batch.ref_logp), batch.action, dim=1)
        row = leave_one_out(batch.reward - self.kl * kl, batch.group)
        if self.whiten_advantages:
            row = whiten(row, torch.ones_like(row, dtype=torch.bool))
        advantage = keep(row[:, None].expand_as(batch.old_logp), batch.action)
        credited = CreditedBatch(**vars(batch), advantage=advantage, returns=torch.zeros_like(advantage))
        return credited, {"constant_groups": float(constant_groups(batch.reward, batch.group))}

    def weight(self, batch: CreditedBatch) -> Tensor:
        return torch.tensor(float(len(batch)), device=batch.ids.device)

    def loss(self, out: PolicyOutput, batch: CreditedBatch) -> Loss:
        logp = masked_sum(out.logp, batch.action, dim=1)
        old = masked_sum(batch.old_logp, batch.action, dim=1)
        advantage = masked_sum(batch.advantage, batch.action, dim=1) / batch.action.sum(1).clamp(min=1)
        row, cut = clipped_policy_loss(logp, old, advantage, self.clip)
        rows = self.weight(batch)
        with torch.no_grad():
            tokens = batch.action.sum().float()
            drift = batch.old_logp - out.logp
            metrics = {
                "policy_loss": (row.detach().sum(), rows),
                "clip_fraction": (cut.float().sum(), rows),
                "approx_kl": (masked_sum(torch.expm1(-drift) + drift, batch.action), tokens),
                "ratio": (torch.exp((logp - old).clamp(-20, 20)).sum(), rows),
            }
        return Loss(row.sum(), metrics)

    def adapt(self, metrics: Mapping[str, float]) -> Rloo:
        return self
