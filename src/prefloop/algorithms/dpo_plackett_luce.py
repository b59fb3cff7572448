"""Direct preference optimisation from whole rankings by the Plackett-Luce likelihood (Rafailov 2023, appendix A.3).

The implicit rewards beta * (log p - log p_ref) are the scores of the choices: the best is chosen among all, the next
among the rest, and so on. Ties are the expectation over every order that agrees with the tiers, so that a list of two
is exactly DPO. Each ranking counts one, whatever its length; a longer list says more, and its likelihood has more
factors.
"""

from __future__ import annotations

from dataclasses import dataclass

from prefloop.algorithms.base import Loss, Need, Positive
from prefloop.algorithms.imitation import Imitation
from prefloop.algorithms.ranked import log_ratio
from prefloop.batch import PolicyOutput, ReferencedBatch
from prefloop.ops.preference import plackett_luce


@dataclass(frozen=True)
class DpoPlackettLuce(Imitation):
    """Holds the options of list-wise DPO beside `sft`.

    beta: strength of the pull to the reference; usual range 0.05 to 0.5
    """

    beta: Positive = 0.1
    name = "dpo_plackett_luce"
    needs: frozenset[Need] = frozenset({"reference"})

    def loss(self, out: PolicyOutput, batch: ReferencedBatch) -> Loss:
        logp = batch.logp(out.logp)
        moved = log_ratio(logp, batch)
        implicit = self.beta * moved
        total = plackett_luce(implicit, batch.choice_mask, batch.choice_weight, batch.numerator).sum()
        return self.reported(total, batch, implicit, moved, logp)
