"""Decoupled clip and dynamic sampling policy optimisation: GRPO for long answers (Yu 2025, eq. 8 to 13).

It differs from GRPO in four things. The ratio may rise further than it may fall (`clip_high`), so that rare tokens can
become likely. All tokens count equally in the loss, whatever the length of their answer. Groups whose rewards are all
equal are replaced by other prompts before the step learns, and what is left of them is dropped. Answers near the limit
of their length are punished softly. The paper has no KL to a reference. The last two things are done where samples are
drawn: `[align.rollout] dynamic_sampling` and `overlong`, which are on for this method.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from prefloop.algorithms.base import NotNegative, Positive, Role
from prefloop.algorithms.clipping import TokenRatio
from prefloop.algorithms.grouped import Grouped
from prefloop.batch import LogprobBatch


@dataclass(frozen=True)
class Dapo(Grouped, TokenRatio):
    """Its options are those of the group, the clip and the KL; these have other defaults than in GRPO."""

    kl: NotNegative = 0.0
    clip_high: Positive | None = 0.28
    drop_constant: bool = True
    name = "dapo"
    trains: tuple[Role, ...] = ("policy",)
    aggregation = "token"

    def advantages(self, batch: LogprobBatch) -> Tensor:
        return self.normalised(batch)
