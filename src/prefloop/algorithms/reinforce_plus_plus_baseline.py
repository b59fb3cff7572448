"""REINFORCE++ with the group's mean as baseline, scaled over the whole batch (Hu 2025, section 3.2).

The advantage is r - mean of the group, which is then shifted and scaled to mean 0 and variance 1 over all tokens of the
batch. GRPO divides by the spread of each group instead, which makes much of groups that hardly differ. The KL to the
reference is k2 in the loss, as in the paper, with the gradient of the reverse KL. As the advantages are scaled, its
strength is relative to the spread of the rewards (`kl_in = "reward"` takes it out of the reward before).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from prefloop.algorithms.base import Role
from prefloop.algorithms.clipping import TokenRatio
from prefloop.algorithms.grouped import Grouped
from prefloop.batch import CreditedBatch, LogprobBatch
from prefloop.ops.group import group_centred
from prefloop.ops.masked import whiten


@dataclass(frozen=True)
class ReinforcePlusPlusBaseline(Grouped, TokenRatio):
    """Its options are those of the group, the clip and the KL; two of the KL have other defaults."""

    kl_in: Literal["reward", "loss"] = "loss"
    kl_estimator: Literal["k1", "k2", "k3"] = "k2"
    name = "reinforce_plus_plus_baseline"
    trains: tuple[Role, ...] = ("policy",)
    aggregation = "token"

    def advantages(self, batch: LogprobBatch) -> Tensor:
        return group_centred(self.penalised(batch), batch.group)

    def credit(self, batch: LogprobBatch) -> tuple[CreditedBatch, Mapping[str, float]]:
        credited, logged = super().credit(batch)
        return replace(credited, advantage=whiten(credited.advantage, batch.action)), logged
