"""The engine knows these protocols about an algorithm, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, Self

from torch import Tensor

from prefloop.batch import CreditedBatch, LogprobBatch

Role = Literal["policy", "reference", "critic", "reward"]
# A batch must also hold these: the reference's log-probabilities, the critic's values.
Need = Literal["reference", "value"]


@dataclass(frozen=True)
class Loss:
    """Holds a sum (never a mean), and metrics as (sum, weight) pairs that add up over micro-batches."""

    total: Tensor
    metrics: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


class Objective(Protocol):
    """Defines something to minimise: reward models, supervised fine-tuning, DPO.

    `trains` names the models that get gradients. The loss of a whole batch is `loss(...).total / weight`, with the
    weight summed over all micro-batches and ranks before anything is divided: splitting cannot change a gradient.
    """

    name: str

    @property
    def trains(self) -> tuple[Role, ...]: ...

    def weight(self, batch: Any) -> Tensor:
        """Return what this (micro-)batch counts, known before any forward pass: tokens, sequences, rankings ... []."""
        ...

    def loss(self, out: Any, batch: Any) -> Loss: ...


class OfflineAlgorithm(Objective, Protocol):
    """Defines an objective on rankings.

    One without `needs` is given the reference's log-probabilities, as one that needs them.
    """

    @property
    def needs(self) -> frozenset[Need]: ...


class OnlineAlgorithm(Objective, Protocol):
    """Defines an objective on the policy's own samples."""

    min_k: int  # It cannot do with fewer completions of a prompt.

    @property
    def needs(self) -> frozenset[Need]:
        """Return what `credit` and `loss` read beside `old_logp`. Nothing else is computed, and its field is None."""
        ...

    def credit(self, batch: LogprobBatch) -> tuple[CreditedBatch, Mapping[str, float]]:
        """Return advantages over the *whole* rollout batch, and what is worth logging about them."""
        ...

    def adapt(self, metrics: Mapping[str, float]) -> Self:
        """Return a new value of itself after a step, e.g. with another KL coefficient. Metrics are the step's means."""
        ...
