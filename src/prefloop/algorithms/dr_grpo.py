"""GRPO done right: without the two divisions that bias it (Liu 2025, "Understanding R1-Zero-like training").

The advantage is r - mean of the group. GRPO also divides it by the group's spread, which makes much of prompts that are
nearly always or nearly never answered well. The loss of a sequence is the sum over its tokens, divided by one constant.
GRPO divides by the sequence's own length, which makes long bad answers cheap.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Self

from pydantic import Field
from torch import Tensor

from prefloop.algorithms.base import Role
from prefloop.algorithms.clipping import TokenRatio
from prefloop.algorithms.grouped import Grouped
from prefloop.batch import LogprobBatch
from prefloop.ops.group import group_centred


@dataclass(frozen=True)
class DrGrpo(Grouped, TokenRatio):
    """Holds its option beside those of the group, the clip and the KL.

    length: tokens that the loss of each sequence is divided by; 0 = [align] max_tokens, as in the paper's code; 1 = the
            paper's equation. It scales the loss, and so what [align] clip_norm does
    """

    length: Annotated[int, Field(ge=0)] = 0
    name = "dr_grpo"
    trains: tuple[Role, ...] = ("policy",)
    aggregation = "constant"

    @property
    def divisor(self) -> float:
        return float(max(self.length, 1))

    def sized(self, max_tokens: int) -> Self:
        """Return itself for a run whose completions have at most so many tokens."""
        return self if self.length else replace(self, length=max_tokens)

    def advantages(self, batch: LogprobBatch) -> Tensor:
        return group_centred(self.penalised(batch), batch.group)
