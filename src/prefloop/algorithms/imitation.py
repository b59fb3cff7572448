"""Imitates the best answers of ranked lists, alone (SFT on best) or beside a loss of preferences (RPO, CPO, ORPO).

It is cross-entropy on the tokens of the best tier of each ranking. It is divided by the number of those tokens, and the
loss beside it by the number of lists: each objective of a step has its own denominator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from prefloop.algorithms.base import Beside, Loss, Need, NotNegative, Role
from prefloop.algorithms.ranked import Ranked
from prefloop.batch import PolicyOutput, RankingBatch


@dataclass(frozen=True)
class ImitateBest:
    """Is the objective. An answer counts as often as rankings put it into their best tier."""

    name = "imitate_best"
    trains: tuple[Role, ...] = ("policy",)
    needs: frozenset[Need] = frozenset()

    def weight(self, batch: RankingBatch) -> Tensor:
        return (batch.best * batch.tokens).sum()

    def loss(self, out: PolicyOutput, batch: RankingBatch) -> Loss:
        total = -(batch.best * batch.logp(out.logp)).sum()
        return Loss(total, {"nll": (total.detach(), self.weight(batch))})


@dataclass(frozen=True)
class Imitation(Ranked):
    """Adds the objective to a method that learns from preferences.

    sft: weight of the cross-entropy on the best answers, which is added to the loss; 0 = none
    """

    sft: NotNegative = 0.0

    def beside(self, batch: RankingBatch) -> Sequence[Beside]:
        return [Beside(batch, ImitateBest(), self.sft)] if self.sft and bool(batch.best.any()) else []
