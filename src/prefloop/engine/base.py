"""The seam to hardware: what a stage may ask of an engine, at every scale.

`tests/contract/test_engines.py` holds every engine to what is promised here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

from torch import Tensor

from prefloop.algorithms.base import Objective, Role
from prefloop.batch import Rows
from prefloop.config import Optimiser


@dataclass(frozen=True)
class Sampling:
    """How to sample. `top_p` = 1 for training: otherwise ratios are over different supports."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    batch: int = 128


@dataclass(frozen=True)
class Sampled:
    """One sampled completion: its ids (end token included), their logprobs in nats, and whether it ended by itself."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    ended: bool


@dataclass(frozen=True)
class Term:
    """A part of one optimiser step: an objective on a batch, scaled.

    temperature: of the policy's log-probabilities; none = the policy's own, at which it samples
    """

    batch: Rows
    objective: Objective
    scale: float = 1.0
    temperature: float | None = None


@dataclass(frozen=True)
class Training:
    """What an engine learns: the models named in `lr`, each at its own learning rate, for so many steps.

    average: how much of the weights' moving average each step keeps; 0 = no average
    """

    settings: Optimiser
    steps: int
    lr: Mapping[Role, float]
    average: float = 0.0


class State(NamedTuple):
    """All that an engine needs to go on exactly: tensors by file and parameter name, and plain values."""

    tensors: Mapping[str, Mapping[str, Tensor]]
    values: Mapping[str, Any]


class Engine(Protocol):
    def generate(self, prompts: Sequence[Sequence[int]], keys: Sequence[int], sampling: Sampling) -> list[Sampled]:
        """One completion a prompt. A sample depends on its key and prompt, not on who shares its batch."""
        ...

    def forward(self, role: Role, batch: Rows, as_learner: bool = False) -> Tensor:
        """What a model says, without gradient, for batches of any size: policy/reference -> logp [N,T],
        critic -> value [N,T], reward -> raw score [N]. as_learner: a reference with the policy's weights gives the
        policy's bits, by the policy's way of computing them."""
        ...

    def with_policy(self, role: Role) -> Self:
        """An engine on the same models in which `role` stands for the policy: it answers what that model would.

        It does not learn.
        """
        ...

    def step(self, *terms: Term) -> Mapping[str, float]:
        """One optimiser step on the sum of the terms; metrics are means over the whole batch."""
        ...

    def gradients(self, *terms: Term) -> tuple[Mapping[str, float], Mapping[str, Tensor]]:
        """What `step` would report, and the gradient it would follow, by role and parameter name. Changes nothing."""
        ...

    def sync(self) -> None:
        """The sampler gets the learner's weights."""
        ...

    def averaged_weights(self) -> AbstractContextManager[None]:
        """The models hold their averaged weights inside this block; after it their own, to the bit.

        The sampler follows at the next `sync`. Without an average nothing changes.
        """
        ...

    def cast(self, role: Role, dtype: str) -> None:
        """Hold a model that does not learn in another number type, such as "bfloat16"."""
        ...

    def state(self) -> State:
        """What a checkpoint keeps. The tensors are those in use: write or copy them before the next step."""
        ...

    def restore(self, tensors: Mapping[str, Mapping[str, Tensor]], values: Mapping[str, Any]) -> None:
        """The inverse of `state`. Raises TrainingError where the names are those of other models."""
        ...

    def computed_by(self) -> Mapping[str, Any]:
        """Which code computes, for the record of a run: "scoring" (of each role), "learning" and "sampling" are
        "compiled", "packed" or "transformers", sampling also "cuda graph"; "kernels" names what is below them."""
        ...

    def weights_hash(self, role: Role) -> str:
        """What identifies the weights that a model holds now."""
        ...

    def save(self, role: Role, folder: Path) -> None:
        """Write a model as a Hugging Face folder, or leave the folder that was there as it was."""
        ...

    def close(self) -> None:
        """Let go of models, memory and processes. The engine is not used after that."""
        ...
