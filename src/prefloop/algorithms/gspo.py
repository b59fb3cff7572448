"""Group sequence policy optimisation: the ratio is that of the sequence, as its mean a token (Zheng 2025, eq. 5 to 7).

The ratio of a sequence is (p / p_old) ^ (1 / length), so that sequences of all lengths move within the same bounds,
which are far narrower than those of a token's ratio. The advantage is GRPO's. For completions of one token it is GRPO.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from prefloop.algorithms.base import Positive, Role
from prefloop.algorithms.clipping import SequenceRatio
from prefloop.algorithms.grouped import Grouped
from prefloop.batch import LogprobBatch


@dataclass(frozen=True)
class Gspo(Grouped, SequenceRatio):
    """Its options are those of the group, the clip and the KL.

    clip, clip_high: 3e-4 and 4e-4 in the paper, for answers of thousands of tokens, whose mean ratio moves less
    """

    clip: Positive = 3e-3
    clip_high: Positive | None = 4e-3
    name = "gspo"
    trains: tuple[Role, ...] = ("policy",)
    mean = True

    def advantages(self, batch: LogprobBatch) -> Tensor:
        return self.normalised(batch)
