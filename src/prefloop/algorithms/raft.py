"""Reward-ranked fine-tuning, or rejection sampling: the best completions of each group are imitated (Dong 2023).

Each step draws K completions a prompt, keeps those with the highest reward, and learns them by the supervised loss: the
cross-entropy of their tokens. Rewards only choose, so their scale has no effect. Nothing holds the policy near a
reference; it goes on until it always gives the best of its answers. A group whose rewards are all equal says nothing
about which answer is best, and is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from prefloop.algorithms.base import Role
from prefloop.algorithms.rejection import Rejection
from prefloop.batch import CreditedBatch, LogprobBatch
from prefloop.ops.group import constant_groups, constant_rows, rank_in_group


@dataclass(frozen=True)
class Raft(Rejection):
    """Holds its option. keep: how many of each group are imitated; 1 in the paper"""

    keep: Annotated[int, Field(ge=1)] = 1
    name = "raft"
    trains: tuple[Role, ...] = ("policy",)
    min_k = 2

    def credit(self, batch: LogprobBatch) -> tuple[CreditedBatch, Mapping[str, float]]:
        best = rank_in_group(batch.reward, batch.group) < self.keep
        kept = best & ~constant_rows(batch.reward, batch.group)
        constant = float(constant_groups(batch.reward, batch.group))
        return self.imitated(batch, kept), {"constant_groups": constant, "kept": float(kept.float().mean())}
