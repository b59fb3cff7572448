"""Kahneman-Tversky optimisation from single answers that are good or bad, without pairs (Ethayarajh 2024, eq. 8).

With r = log p - log p_ref of a completion, a good answer loses 1 - sigmoid(beta * (r - z0)) and a bad one 1 -
sigmoid(beta * (z0 - r)). The reference point z0 is the KL to the reference, estimated on answers to other prompts and
at least 0; it is computed before the step, over the whole batch and without gradient, so that splitting the batch
changes nothing. Labels are those that people gave, or the best and the worst tier of each ranking.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from prefloop.algorithms.base import Loss, Need, NotNegative, Positive, Role
from prefloop.algorithms.ranked import log_ratio
from prefloop.batch import AnchoredBatch, PolicyOutput
from prefloop.ops.preference import label_metrics


@dataclass(frozen=True)
class Kto:
    """Holds the options of KTO.

    beta: how soon the value of a gain is spent; usual range 0.05 to 0.5
    desirable_weight, undesirable_weight: how much good and bad answers count; weight times number is best kept within
                                          1 to 4/3 of the other's
    """

    beta: Positive = 0.1
    desirable_weight: NotNegative = 1.0
    undesirable_weight: NotNegative = 1.0
    name = "kto"
    trains: tuple[Role, ...] = ("policy",)
    needs: frozenset[Need] = frozenset({"reference", "mismatched"})

    def weight(self, batch: AnchoredBatch) -> Tensor:
        return (batch.best + batch.worst).sum()

    def loss(self, out: PolicyOutput, batch: AnchoredBatch) -> Loss:
        logp = batch.logp(out.logp)
        moved = log_ratio(logp, batch)
        gain = self.beta * (moved - batch.reference_point[:, None])
        good = self.desirable_weight * batch.best * torch.sigmoid(-gain)
        bad = self.undesirable_weight * batch.worst * torch.sigmoid(gain)
        total = (good + bad).sum()
        metrics = label_metrics(gain, self.beta * moved, logp, batch.present, batch.best, batch.worst)
        point = (batch.reference_point.sum(), torch.ones_like(batch.reference_point).sum())
        return Loss(total, {"loss": (total.detach(), self.weight(batch)), "reference_point": point, **metrics})
