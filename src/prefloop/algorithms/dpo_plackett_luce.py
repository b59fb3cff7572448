"""Direct preference optimisation from whole rankings by the Plackett-Luce likelihood (Rafailov 2023, appendix A.3).

The implicit rewards beta * (log p - log p_ref) are the scores of the choices: the best is chosen among all, the next
among the rest, and so on. Ties are the expectation over every order that agrees with the tiers, so that a list of two
is exactly DPO. Each ranking counts one, whatever its length; a longer list says more, and its likelihood has more
factors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from prefloop.algorithms.base import Loss, Need, Role
from prefloop.algorithms.imitation import Imitation
from prefloop.batch import PolicyOutput, ReferencedBatch
from prefloop.ops.preference import pair_metrics, plackett_luce


@dataclass(frozen=True)
class DpoPlackettLuce(Imitation):
    """Holds the options of list-wise DPO beside `sft`.

    beta: strength of the pull to the reference; usual range 0.05 to 0.5
    """

    beta: float = 0.1
    name = "dpo_plackett_luce"
    trains: tuple[Role, ...] = ("policy",)
    needs: frozenset[Need] = frozenset({"reference"})

    def weight(self, batch: ReferencedBatch) -> Tensor:
        return batch.weight.sum()

    def loss(self, out: PolicyOutput, batch: ReferencedBatch) -> Loss:
        logp = batch.logp(out.logp)
        moved = torch.where(batch.present, logp - batch.ref_total, torch.zeros_like(logp))
        implicit = self.beta * moved
        total = plackett_luce(implicit, batch.choice_mask, batch.choice_weight, batch.numerator).sum()
        metrics = pair_metrics(implicit, moved, logp, batch.present, batch.wins)
        return Loss(total, {"loss": (total.detach(), self.weight(batch)), **metrics})
