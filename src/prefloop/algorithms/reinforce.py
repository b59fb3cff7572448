"""REINFORCE with a baseline (Williams 1992): a sequence is one action, and no group is needed.

The reward is score - kl * sum over tokens of (old_logp - ref_logp). The baseline is the running mean of the earlier
rewards on the same prompt, and after it the mean over the batch; or the mean over the batch alone. The ratio is that of
the whole sequence, clipped as in PPO, so that more than one update a batch is possible; on the first update it is plain
REINFORCE.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from prefloop.algorithms.base import Need, Role
from prefloop.algorithms.clipping import SequenceRatio
from prefloop.algorithms.grouped import per_token
from prefloop.batch import CreditedBatch, LogprobBatch
from prefloop.ops.masked import whiten


@dataclass(frozen=True)
class Reinforce(SequenceRatio):
    """Holds its options beside those of the clip and the KL.

    baseline: "prompt", "batch", or "none" for the reward as it is
    whiten_advantages: whether advantages get unit variance over the batch
    """

    baseline: Literal["prompt", "batch", "none"] = "prompt"
    whiten_advantages: bool = False
    name = "reinforce"
    trains: tuple[Role, ...] = ("policy",)
    min_k = 1

    @property
    def needs(self) -> frozenset[Need]:
        return super().needs | ({"baseline"} if self.baseline == "prompt" else set())

    def credit(self, batch: LogprobBatch) -> tuple[CreditedBatch, Mapping[str, float]]:
        row = self.penalised(batch)
        if self.baseline == "prompt":
            assert batch.baseline is not None
            row = row - batch.baseline
        if self.baseline != "none":
            row = row - row.mean()
        if self.whiten_advantages:
            row = whiten(row, torch.ones_like(row, dtype=torch.bool), shift_mean=False)
        credited = CreditedBatch(**vars(batch), advantage=per_token(row, batch), returns=None)
        return credited, {"kl_coefficient": self.kl}
