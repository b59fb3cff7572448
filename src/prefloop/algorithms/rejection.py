"""What the methods by rejection sampling share: the supervised loss on those of their own samples that are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from prefloop.algorithms.base import Loss, Need
from prefloop.batch import CreditedBatch, LogprobBatch, PolicyOutput
from prefloop.ops.aggregate import aggregated, aggregation_weight
from prefloop.ops.masked import keep
from prefloop.ops.ratio import ratio_metrics


@dataclass(frozen=True)
class Rejection:
    """Learns kept rows by cross-entropy; all their tokens count equally, as in supervised fine-tuning."""

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset()

    def imitated(self, batch: LogprobBatch, kept: Tensor) -> CreditedBatch:
        """Return the batch in which the rows `kept` [N] are learnt from: their tokens are worth 1, others nothing."""
        advantage = keep(torch.ones_like(batch.old_logp), batch.action & kept[:, None])
        return CreditedBatch(**vars(batch), advantage=advantage, returns=None, kept=kept)

    def weight(self, batch: CreditedBatch) -> Tensor:
        return aggregation_weight(batch.action, "token")

    def loss(self, out: PolicyOutput, batch: CreditedBatch) -> Loss:
        total = aggregated(-out.logp, batch.action, "token")
        log_ratio = out.logp - batch.old_logp
        never = torch.zeros_like(batch.action)
        moved = ratio_metrics(out.logp, batch.old_logp, batch.action, log_ratio, never)
        return Loss(total, {"policy_loss": (total.detach(), self.weight(batch)), **moved})

    def adapt(self, metrics: Mapping[str, float]) -> Self:
        return self
