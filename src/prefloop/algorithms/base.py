"""The engine knows these protocols about an algorithm, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple, Protocol, Self

from pydantic import Field
from torch import Tensor

from prefloop.batch import CreditedBatch, LogprobBatch, ReferencedBatch, Rows

# These are the ranges of options.
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
# "refreshed" is a reference that follows the policy, where there is one; "reference" stays as it was.
Role = Literal["policy", "reference", "refreshed", "critic", "reward"]
# A batch must also hold these: the reference's log-probabilities, the critic's values, the running mean reward of each
# prompt, the log-ratio on answers to other prompts.
Need = Literal["reference", "value", "baseline", "mismatched"]


@dataclass(frozen=True)
class Loss:
    """Holds a sum (never a mean), and metrics as (sum, weight) pairs that add up over micro-batches."""

    total: Tensor
    metrics: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


class Objective(Protocol):
    """Defines something to minimise: reward models, supervised fine-tuning, DPO.

    `trains` names the models that get gradients. The loss of a whole batch is `loss(...).total / weight`, with the
    weight summed over all micro-batches and ranks before anything is divided: splitting cannot change a gradient.
    One that has `holds` names there which of these models get no gradient at present.
    """

    name: str

    @property
    def trains(self) -> tuple[Role, ...]: ...

    def weight(self, batch: Any) -> Tensor:
        """Return what this (micro-)batch counts, known before any forward pass: tokens, sequences, rankings ... []."""
        ...

    def loss(self, out: Any, batch: Any) -> Loss: ...


class Beside(NamedTuple):
    """Is another objective of the same optimiser step: on rows of its own, with its own weight, scaled."""

    batch: Rows
    objective: Objective
    scale: float


class OfflineAlgorithm(Objective, Protocol):
    """Defines an objective on rankings.

    One without `needs` is given the reference's log-probabilities, as one that needs them. One that has a method
    `beside(batch) -> Sequence[Beside]` adds further objectives to the step, each divided by its own weight.
    """

    @property
    def needs(self) -> frozenset[Need]: ...


class OnlineAlgorithm(Objective, Protocol):
    """Defines an objective on the policy's own samples.

    One whose loss depends on how long completions may be has a method `sized(max_tokens) -> Self`, which is called
    before the first step.
    """

    min_k: int  # It cannot do with fewer completions of a prompt.

    @property
    def needs(self) -> frozenset[Need]:
        """Return what `credit` and `loss` read beside `old_logp`. Nothing else is computed, and its field is None."""
        ...

    def credit(self, batch: LogprobBatch) -> tuple[CreditedBatch | ReferencedBatch, Mapping[str, float]]:
        """Return advantages over the *whole* rollout batch, and what is worth logging about them.

        An algorithm that learns from the order of a prompt's completions returns lists instead of rows.
        """
        ...

    def adapt(self, metrics: Mapping[str, float]) -> Self:
        """Return a new value of itself after a step, e.g. with another KL coefficient. Metrics are the step's means."""
        ...
