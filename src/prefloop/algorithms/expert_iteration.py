"""Expert iteration: completions that are good enough are imitated (Anthony 2017; Singh 2023, "ReST-EM").

Each step draws completions, keeps those whose reward is at least a threshold, and learns them by the supervised loss.
It fits rewards that say right or wrong, where RAFT would also imitate the best of K wrong answers. With a reward model,
1 is one standard deviation above the mean of the reference's answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from prefloop.algorithms.base import Finite, Role
from prefloop.algorithms.rejection import Rejection
from prefloop.batch import CreditedBatch, LogprobBatch
from prefloop.ops.group import rank_in_group


@dataclass(frozen=True)
class ExpertIteration(Rejection):
    """Holds its options.

    threshold:  the least reward of an answer that is imitated, after the rule for cut-off answers
    per_prompt: the most answers of a prompt that are imitated, the best first, so that easy prompts do not take over
    """

    threshold: Finite = 1.0
    per_prompt: Annotated[int, Field(ge=1)] = 4
    name = "expert_iteration"
    trains: tuple[Role, ...] = ("policy",)
    min_k = 1

    def credit(self, batch: LogprobBatch) -> tuple[CreditedBatch, Mapping[str, float]]:
        good = batch.reward >= self.threshold
        kept = good & (rank_in_group(batch.reward, batch.group) < self.per_prompt)
        return self.imitated(batch, kept), {"kept": float(kept.float().mean())}
