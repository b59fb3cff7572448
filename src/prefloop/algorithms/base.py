"""What the engine knows about an algorithm: these protocols, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, Self

from torch import Tensor

from prefloop.batch import CreditedBatch, LogprobBatch

Role = Literal["policy", "reference", "critic", "reward"]
Need = Literal["reference", "value"]  # what else a batch must hold: what the reference says, what the critic does


@dataclass(frozen=True)
class Loss:
    """A sum (never a mean), and metrics as (sum, weight) pairs that add up over micro-batches."""

    total: Tensor
    metrics: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


class Objective(Protocol):
    """Something to minimise: reward models, supervised fine-tuning, DPO.

    `trains` names the models that get gradients. The loss of a whole batch is `loss(...).total / weight`, with the
    weight summed over all micro-batches and ranks before anything is divided: splitting cannot change a gradient.
    """

    name: str

    @property
    def trains(self) -> tuple[Role, ...]: ...

    def weight(self, batch: Any) -> Tensor:
        """What this (micro-)batch counts, known before any forward pass: tokens, sequences, rankings ... []."""
        ...

    def loss(self, out: Any, batch: Any) -> Loss: ...


class OfflineAlgorithm(Objective, Protocol):
    """An objective on rankings. One without `needs` is given what the reference says, as one that needs it."""

    @property
    def needs(self) -> frozenset[Need]: ...


class OnlineAlgorithm(Objective, Protocol):
    """An objective on the policy's own samples."""

    min_k: int  # completions a prompt it cannot do without

    @property
    def needs(self) -> frozenset[Need]:
        """What `credit` and `loss` read beside `old_logp`. Nothing else is computed: the fields are none."""
        ...

    def credit(self, batch: LogprobBatch) -> tuple[CreditedBatch, Mapping[str, float]]:
        """Who deserves what: advantages over the *whole* rollout batch, and what is worth logging about it."""
        ...

    def adapt(self, metrics: Mapping[str, float]) -> Self:
        """A new value of itself after a step, e.g. with another KL coefficient. Metrics are the step's means."""
        ...
