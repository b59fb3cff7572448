"""The reference that the KL is priced from, where it follows the policy (`[align] reference_refresh`).

It is another model than the round's reference, which stays: from that one evaluations measure, and a budget counts.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn

from prefloop.batch import LogprobBatch, RolloutBatch
from prefloop.config_align import Align
from prefloop.engine.base import Engine
from prefloop.models.lora import copy_of, has_adapter, silent_copy
from prefloop.ops.masked import masked_sum
from prefloop.project.project import ModelRef, Project, load_policy


def load_reference(project: Project, reference: ModelRef, same: Any | None) -> Any:
    """Return the round's reference, which is frozen. With adapters it stands on the weights that the policy stands on.

    same: the policy, where it starts as the reference
    """
    if project.config.model.adapter == "lora":
        return project.trunks.causal(reference.intact(), project.config.model)[0]
    return load_policy(project, reference)[0] if same is None else copy.deepcopy(same)


def refreshed(reference: nn.Module, policy: nn.Module) -> nn.Module:
    """Return what is the reference now, and can become the policy: with an adapter of its own if the policy has one."""
    if has_adapter(policy) and not has_adapter(reference):
        return silent_copy(policy)
    return copy_of(reference).requires_grad_(False)


@dataclass(frozen=True)
class Refresh:
    """Says when the reference follows the policy, and how far.

    every: steps; 0 = never
    keep:  the share that it keeps of itself (the rest is the policy's)
    """

    every: int
    keep: float

    @classmethod
    def of(cls, settings: Align) -> Refresh:
        return cls(settings.reference_refresh, settings.reference_ema)

    @property
    def role(self) -> Literal["reference", "refreshed"]:
        """Return the model that the loss or the price is of."""
        return "refreshed" if self.every else "reference"

    def after(self, engine: Engine, done: int) -> None:
        """Move the reference, where `done` steps are a multiple of those that it stays for."""
        if self.every and done % self.every == 0:
            engine.refresh(self.keep)

    def measured(
        self, engine: Engine, rolled: RolloutBatch, batch: LogprobBatch, as_learner: bool
    ) -> tuple[LogprobBatch, dict[str, float]]:
        """Return the batch with what the reference that moves says of it, and the distance from that one.

        batch: the same with what the round's own reference says
        """
        if not self.every or batch.ref_logp is None:
            return batch, {}
        ref_logp = engine.forward("refreshed", rolled, as_learner=as_learner)
        away = masked_sum(batch.old_logp - ref_logp, batch.action) / len(batch)
        return replace(batch, ref_logp=ref_logp), {"kl_refreshed": float(away)}
