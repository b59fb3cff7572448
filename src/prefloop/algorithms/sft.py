"""Supervised fine-tuning computes cross-entropy on the completion's tokens only, end token included."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from prefloop.algorithms.base import Loss, Role
from prefloop.batch import PolicyOutput, Rows
from prefloop.ops.masked import masked_sum


@dataclass(frozen=True)
class Sft:
    name = "sft"
    trains: tuple[Role, ...] = ("policy",)

    def weight(self, batch: Rows) -> Tensor:
        return batch.rows().action.sum().float()

    def loss(self, out: PolicyOutput, batch: Rows) -> Loss:
        total = -masked_sum(out.logp, batch.rows().action)
        return Loss(total, {"loss": (total.detach(), self.weight(batch))})
