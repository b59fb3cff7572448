"""Direct preference optimisation from whole rankings (Rafailov 2023, eq. 7), ties included.

The implicit reward of a completion is beta * (log p - log p_ref) of its tokens. The loss is Bradley-Terry over all
pairs of each ranking: each pair counts 1 / (K choose 2), and a tie counts half in both directions (cDPO with epsilon =
0.5). Each completion is run once a list, however many pairs it is in. Lengths are not normalised.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from prefloop.algorithms.base import Loss, Need, Role
from prefloop.batch import PolicyOutput, ReferencedBatch
from prefloop.ops.masked import masked_sum
from prefloop.ops.preference import bradley_terry, ordered_pairs


@dataclass(frozen=True)
class Dpo:
    """Holds the options of DPO.

    beta: strength of the pull to the reference; usual range 0.05 to 0.5
    """

    beta: float = 0.1
    name = "dpo"
    trains: tuple[Role, ...] = ("policy",)
    needs: frozenset[Need] = frozenset({"reference"})

    def weight(self, batch: ReferencedBatch) -> Tensor:
        return batch.weight.sum()

    def loss(self, out: PolicyOutput, batch: ReferencedBatch) -> Loss:
        total_logp = batch.lists(masked_sum(out.logp, batch.rows().action, dim=1))
        implicit = self.beta * torch.where(batch.present, total_logp - batch.ref_total, torch.zeros_like(total_logp))
        total = bradley_terry(implicit, batch.wins).sum()
        with torch.no_grad():
            right, strict = ordered_pairs(total_logp - batch.ref_total, batch.wins)
            count = batch.present.float().sum()
        return Loss(
            total,
            {
                "loss": (total.detach(), self.weight(batch)),
                "accuracy": (right, strict),
                "implicit_reward": (implicit.detach().sum(), count),
            },
        )
