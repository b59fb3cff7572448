"""What the methods on ranked lists share: what a list counts, how far a completion has moved, the metrics."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from prefloop.algorithms.base import Loss, Role
from prefloop.batch import RankingBatch, ReferencedBatch
from prefloop.ops.preference import pair_metrics


def log_ratio(logp: Tensor, batch: ReferencedBatch) -> Tensor:
    """Return log p - log p_ref of each completion [R,K], 0 where there is none. logp: [R,K]"""
    return torch.where(batch.present, logp - batch.ref_total, torch.zeros_like(logp))


@dataclass(frozen=True)
class Ranked:
    """Each ranking counts 1, as far as it is not weighed otherwise."""

    trains: tuple[Role, ...] = ("policy",)

    def weight(self, batch: RankingBatch) -> Tensor:
        return batch.weight.sum()

    def reported(self, total: Tensor, batch: RankingBatch, implicit: Tensor, moved: Tensor, logp: Tensor) -> Loss:
        """Return the loss with the metrics of pairs; the tensors are those of `ops.preference.pair_metrics`."""
        metrics = pair_metrics(implicit, moved, logp, batch.present, batch.wins)
        return Loss(total, {"loss": (total.detach(), self.weight(batch)), **metrics})
