"""Group-relative policy optimisation: the group of a prompt's completions is the baseline (Shao 2024).

The advantage is (r - mean) / std of the group, one number for all tokens of a sequence. The ratio of each token is
clipped. The loss of a sequence is the mean over its tokens, and the loss of a batch is the mean over sequences. The KL
to the reference is taken out of the reward, as k1 of the sequence, *before* the group is normalised. The paper puts a
k3 term in the loss, whose gradient is not that of the reverse KL and whose strength then depends on the group's spread
(`kl_in = "loss"` and `kl_unbiased = false` do that).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from prefloop.algorithms.base import Role
from prefloop.algorithms.clipping import TokenRatio
from prefloop.algorithms.grouped import Grouped
from prefloop.batch import LogprobBatch


@dataclass(frozen=True)
class Grpo(Grouped, TokenRatio):
    """Its options are those of the group, the clip and the KL."""

    name = "grpo"
    trains: tuple[Role, ...] = ("policy",)
    aggregation = "sequence"

    def advantages(self, batch: LogprobBatch) -> Tensor:
        return self.normalised(batch)
