"""Trains a reward model on whole rankings by the Plackett-Luce likelihood of the tiers (Plackett 1975).

Ties are the expectation over every order that agrees with the tiers, so a list of two is exactly Bradley-Terry, ties
included. Each ranking counts one, whatever its length: a longer list says more, and its likelihood has more factors.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from prefloop.algorithms.base import Loss, Role
from prefloop.batch import RankingBatch, RewardOutput
from prefloop.ops.preference import plackett_luce


@dataclass(frozen=True)
class PlackettLuce:
    name = "plackett_luce"
    trains: tuple[Role, ...] = ("reward",)

    def weight(self, batch: RankingBatch) -> Tensor:
        return batch.weight.sum()

    def loss(self, out: RewardOutput, batch: RankingBatch) -> Loss:
        score = batch.lists(out.score)
        total = plackett_luce(score, batch.choice_mask, batch.choice_weight, batch.numerator).sum()
        return Loss(total, {"loss": (total.detach(), self.weight(batch))})
