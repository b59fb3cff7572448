"""Simple preference optimisation: a policy's own mean log-probability is the reward, without reference (Meng 2024).

The loss of "i beats j" is -log sigmoid(beta * (m_i - m_j) - gamma), where m is the mean log-probability of a
completion's tokens. Pairs are weighted as in DPO. Nothing holds the policy to a reference but few and small steps. With
`sft` the cross-entropy on the best answers is added (CPO-SimPO).
"""

from __future__ import annotations

from dataclasses import dataclass

from prefloop.algorithms.base import Loss, Need, NotNegative, Positive
from prefloop.algorithms.imitation import Imitation
from prefloop.batch import PolicyOutput, RankingBatch
from prefloop.ops.preference import bradley_terry


@dataclass(frozen=True)
class Simpo(Imitation):
    """Holds the options of SimPO beside `sft`.

    beta:  scale of the reward; usual range 2 to 10
    gamma: margin by which the better answer's reward must be higher; usual range 0.3 to 0.8 times beta
    """

    beta: Positive = 2.0
    gamma: NotNegative = 1.0
    name = "simpo"
    needs: frozenset[Need] = frozenset()
    length_normalised = True

    def loss(self, out: PolicyOutput, batch: RankingBatch) -> Loss:
        mean = batch.logp(out.logp, mean=True)
        total = bradley_terry(self.beta * mean, batch.wins, self.gamma).sum()
        return self.reported(total, batch, self.beta * mean, mean, batch.logp(out.logp))
