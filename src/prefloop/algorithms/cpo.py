"""Contrastive preference optimisation: DPO with a uniform reference, and imitation of the best (Xu 2024).

The loss of "i beats j" is -log sigmoid(beta * (log p_i - log p_j)); the cross-entropy on the best answers (`sft`) is
what holds the policy to good text. No reference is run. Pairs are weighted as in DPO.
"""

from __future__ import annotations

from dataclasses import dataclass

from prefloop.algorithms.base import Loss, Need, NotNegative, Positive
from prefloop.algorithms.imitation import Imitation
from prefloop.batch import PolicyOutput, RankingBatch
from prefloop.ops.preference import bradley_terry


@dataclass(frozen=True)
class Cpo(Imitation):
    """Holds the options of CPO.

    sft:  weight of the cross-entropy on the best answers (cpo_alpha in TRL); 1
    beta: scale of the log-probabilities; usual range 0.05 to 0.5
    """

    sft: NotNegative = 1.0
    beta: Positive = 0.1
    name = "cpo"
    needs: frozenset[Need] = frozenset()

    def loss(self, out: PolicyOutput, batch: RankingBatch) -> Loss:
        logp = batch.logp(out.logp)
        total = bradley_terry(self.beta * logp, batch.wins).sum()
        return self.reported(total, batch, self.beta * logp, logp, logp)
