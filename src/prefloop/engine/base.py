"""The seam to hardware: what a stage may ask of an engine, at every scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from prefloop.algorithms.base import Objective, Role
from prefloop.batch import Rows


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


class Engine(Protocol):
    def generate(self, prompts: Sequence[Sequence[int]], keys: Sequence[int], sampling: Sampling) -> list[Sampled]:
        """One completion a prompt. A sample depends on its key and prompt, not on who shares its batch."""
        ...

    def forward(self, role: Role, batch: Rows, as_learner: bool = False) -> Any:
        """What a model says, without gradient, for batches of any size: policy/reference -> logp [N,T],
        critic -> value [N,T], reward -> raw score [N]. as_learner: a reference with the policy's weights gives the
        policy's bits, by the policy's way of computing them."""
        ...

    def step(self, *terms: Term) -> Mapping[str, float]:
        """One optimiser step on the sum of the terms; metrics are means over the whole batch."""
        ...

    def sync(self) -> None:
        """The sampler gets the learner's weights."""
        ...

    def save(self, role: Role, folder: Path) -> None:
        """Write a model as a Hugging Face folder."""
        ...
