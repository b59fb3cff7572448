"""REINFORCE leave-one-out: a sequence is one action, and its baseline is the other completions' mean (Ahmadian 2024).

The reward is score - kl * sum over tokens of (old_logp - ref_logp). The ratio is that of the whole sequence, clipped as
in PPO, so that more than one update a batch is possible; on the first update it is plain REINFORCE.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from prefloop.algorithms.base import Role
from prefloop.algorithms.clipping import SequenceRatio
from prefloop.algorithms.grouped import Grouped
from prefloop.batch import LogprobBatch
from prefloop.ops.group import leave_one_out
from prefloop.ops.masked import whiten


@dataclass(frozen=True)
class Rloo(Grouped, SequenceRatio):
    """Holds its option beside those of the group, the clip and the KL.

    whiten_advantages: whether advantages get unit variance over the batch, which is steadier early on
    """

    whiten_advantages: bool = False
    name = "rloo"
    trains: tuple[Role, ...] = ("policy",)

    def advantages(self, batch: LogprobBatch) -> Tensor:
        row = leave_one_out(self.penalised(batch), batch.group)
        return whiten(row, torch.ones_like(row, dtype=torch.bool)) if self.whiten_advantages else row
