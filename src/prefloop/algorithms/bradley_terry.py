"""Trains a reward model on all K-choose-2 pairs of each ranking, each counting 1 / (K choose 2) (Ouyang 2022, eq. 1).

A tie counts half in both directions: it pulls two scores together instead of being dropped.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from prefloop.algorithms.base import Loss, Role
from prefloop.batch import RankingBatch, RewardOutput
from prefloop.ops.preference import bradley_terry


@dataclass(frozen=True)
class BradleyTerry:
    name = "bradley_terry"
    trains: tuple[Role, ...] = ("reward",)

    def weight(self, batch: RankingBatch) -> Tensor:
        return batch.weight.sum()

    def loss(self, out: RewardOutput, batch: RankingBatch) -> Loss:
        total = bradley_terry(batch.lists(out.score), batch.wins).sum()
        return Loss(total, {"loss": (total.detach(), self.weight(batch))})
