"""Odds-ratio preference optimisation: imitates the best answers and widens their odds in one stage (Hong 2024, eq. 6).

The loss of "i beats j" is -beta * log sigmoid(log odds_i - log odds_j), where odds = p / (1 - p) and p is the geometric
mean of the probabilities of a completion's tokens. The cross-entropy on the best answers is added with weight `sft`.
No reference is run. Pairs are weighted as in DPO.
"""

from __future__ import annotations

from dataclasses import dataclass

from prefloop.algorithms.base import Loss, Need, NotNegative, Positive
from prefloop.algorithms.imitation import Imitation
from prefloop.batch import PolicyOutput, RankingBatch
from prefloop.ops.preference import bradley_terry, log_odds


@dataclass(frozen=True)
class Orpo(Imitation):
    """Holds the options of ORPO.

    sft:  weight of the cross-entropy on the best answers, 1 in the paper
    beta: weight of the odds ratio (lambda in the paper); usual range 0.1 to 1
    """

    sft: NotNegative = 1.0
    beta: Positive = 0.1
    name = "orpo"
    needs: frozenset[Need] = frozenset()
    length_normalised = True

    def loss(self, out: PolicyOutput, batch: RankingBatch) -> Loss:
        mean = batch.logp(out.logp, mean=True)
        total = self.beta * bradley_terry(log_odds(mean), batch.wins).sum()
        return self.reported(total, batch, self.beta * mean, mean, batch.logp(out.logp))
