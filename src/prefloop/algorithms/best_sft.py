"""Supervised fine-tuning on the best answers of ranked lists, as an offline method: it learns from no other answer.

The loss is cross-entropy on the tokens of each ranking's best tier; an answer counts as often as people put it there.
It is the baseline that a method with preferences must beat, since it uses the same rankings.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from prefloop.algorithms.base import Loss, Need
from prefloop.algorithms.ranked import Ranked
from prefloop.batch import PolicyOutput, RankingBatch


@dataclass(frozen=True)
class BestSft(Ranked):
    """Has no options: [align] lr and passes say how much is learnt."""

    name = "best_sft"
    needs: frozenset[Need] = frozenset()
    length_normalised = True

    def weight(self, batch: RankingBatch) -> Tensor:
        return (batch.best * batch.tokens).sum()

    def loss(self, out: PolicyOutput, batch: RankingBatch) -> Loss:
        logp = batch.logp(out.logp)
        mean = logp / batch.tokens
        total = -(batch.best * logp).sum()
        return self.reported(total, batch, mean, mean, logp)
