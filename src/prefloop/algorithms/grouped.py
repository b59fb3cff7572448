"""What the methods share whose baseline is the group: the other completions of the same prompt."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from prefloop.algorithms.penalty import KlPenalty
from prefloop.batch import CreditedBatch, LogprobBatch
from prefloop.ops.group import constant_groups, constant_rows, group_normalised
from prefloop.ops.masked import keep


def per_token(row: Tensor, batch: LogprobBatch) -> Tensor:
    """Return a number of each sequence [N] for each of its tokens [N,T]; 0 outside the actions."""
    return keep(row[:, None].expand_as(batch.old_logp), batch.action)


@dataclass(frozen=True)
class Grouped(KlPenalty, ABC):
    """Gives all tokens of a sequence one advantage, which comes from its group.

    drop_constant: whether groups whose rewards are all equal are not learnt from, and do not count in the mean
    """

    drop_constant: bool = False
    min_k = 2

    @abstractmethod
    def advantages(self, batch: LogprobBatch) -> Tensor:
        """Return the advantage of each sequence [N]."""

    def normalised(self, batch: LogprobBatch) -> Tensor:
        """Return the priced rewards as `group_normalised` does [N]; 0 in a group whose rewards are all equal.

        Only the KL differs there. Divided by its own deviation, however small, it would count as much as a reward.
        """
        teaches = ~constant_rows(batch.reward, batch.group)
        return torch.where(teaches, group_normalised(self.penalised(batch), batch.group), 0.0)

    def credit(self, batch: LogprobBatch) -> tuple[CreditedBatch, Mapping[str, float]]:
        kept = ~constant_rows(batch.reward, batch.group) if self.drop_constant else None
        advantage = per_token(self.advantages(batch), batch)
        return CreditedBatch(**vars(batch), advantage=advantage, returns=None, kept=kept), {
            "constant_groups": float(constant_groups(batch.reward, batch.group)),
            "kl_coefficient": self.kl,
        }
