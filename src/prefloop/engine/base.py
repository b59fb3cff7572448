"""Defines what a stage may ask of an engine, which is the only seam to hardware, at every scale.

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
from prefloop.config_section import Optimiser


@dataclass(frozen=True)
class Sampling:
    """Says how to sample. `top_p` is 1 for training, because otherwise ratios are over different supports."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    batch: int = 128


@dataclass(frozen=True)
class Sampled:
    """Holds one sampled completion.

    It has the ids (end token included), their logprobs in nats, and whether it ended by itself.

    weights: the published version that it was drawn with; "" where this process sampled
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    ended: bool
    weights: str = ""


@dataclass(frozen=True)
class Term:
    """Is a part of one optimiser step: an objective on a batch, scaled.

    temperature: that of the policy's log-probabilities; None is the policy's own, at which it samples
    """

    batch: Rows
    objective: Objective
    scale: float = 1.0
    temperature: float | None = None


def terms_of(batch: Rows, objective: Objective) -> list[Term]:
    """Return the objective on a batch as a part of a step, and after it what the objective asks for beside itself."""
    beside = getattr(objective, "beside", None)
    return [Term(batch, objective), *(Term(*other) for other in (beside(batch) if beside else ()))]


@dataclass(frozen=True)
class Training:
    """Says what an engine learns: the models named in `lr`, each at its own learning rate, for so many steps.

    average: how much of the weights' moving average each step keeps; 0 = no average
    """

    settings: Optimiser
    steps: int
    lr: Mapping[Role, float]
    average: float = 0.0


class State(NamedTuple):
    """Holds all that an engine needs to go on exactly: tensors by file and parameter name, and plain values."""

    tensors: Mapping[str, Mapping[str, Tensor]]
    values: Mapping[str, Any]


class Engine(Protocol):
    @property
    def trusts_sampler(self) -> bool:
        """Whether the sampler's log-probabilities may stand for the learner's, where they were seen to agree.

        They may not where another program samples: the ratio is then of the learner's own.
        """
        ...

    def generate(self, prompts: Sequence[Sequence[int]], keys: Sequence[int], sampling: Sampling) -> list[Sampled]:
        """Return one completion for each prompt.

        A sample depends on its key and prompt, not on who shares its batch.
        """
        ...

    def stop_sampling(self) -> None:
        """Let `generate` in another thread end at once, by an error, if it waits for others. Next comes `close`."""
        ...

    def forward(self, role: Role, batch: Rows, as_learner: bool = False, temperature: float | None = None) -> Tensor:
        """Return what a model computes, without gradient, for batches of any size.

        role: "policy", "reference" and "refreshed" give logp [N,T], "critic" gives value [N,T], "reward" gives the raw
        score [N]
        as_learner: whether a reference is computed by the policy's way, so that equal weights give the policy's bits
        temperature: that of a policy's log-probabilities; None is the model's own, at which it samples
        """
        ...

    def drawable(self, batch: Rows, sampling: Sampling) -> tuple[Tensor, Tensor]:
        """Return the least and the most [N,T] that a sampler says of given tokens: their log-probability under what
        `sampling` draws from.

        Of a token that it may not draw, the least is infinite. A sampler elsewhere is checked by it.
        """
        ...

    def with_policy(self, role: Role) -> Self:
        """Return an engine on the same models in which `role` stands for the policy: it answers what that model would.

        It does not learn.
        """
        ...

    def step(self, *terms: Term) -> Mapping[str, float]:
        """Make one optimiser step on the sum of the terms. Return metrics, which are means over the whole batch."""
        ...

    def gradients(self, *terms: Term) -> tuple[Mapping[str, float], Mapping[str, Tensor]]:
        """Return what `step` would report, and the gradient it would follow, by role and parameter name.

        Change nothing.
        """
        ...

    def fit_budget(self, found: int | None = None) -> int | None:
        """Settle how many padded tokens a pass of a step takes, where the settings leave it to the engine ("auto").

        It is the most that fits into memory; found: what an earlier process of the same run settled on. Returns it;
        None where the settings say it. Nothing that is learnt changes.
        """
        ...

    def refresh(self, keep: float = 0.0) -> None:
        """Move the model "refreshed" towards the policy that learns: it becomes `keep` parts itself, the rest policy.

        What it has become is in `state`. Raises TrainingError where the two are models of different shapes.
        """
        ...

    def sync(self) -> None:
        """Give the sampler the learner's weights."""
        ...

    def averaged_weights(self) -> AbstractContextManager[None]:
        """Return a context in which the models hold their averaged weights; after it they hold their own, to the bit.

        The sampler follows at the next `sync`. Without an average nothing changes.
        """
        ...

    def cast(self, role: Role, dtype: str) -> None:
        """Hold a model that does not learn in another number type, such as "bfloat16"."""
        ...

    def state(self) -> State:
        """Return what a checkpoint keeps.

        The tensors are those in use: write or copy them before the next step.
        """
        ...

    def restore(self, tensors: Mapping[str, Mapping[str, Tensor]], values: Mapping[str, Any]) -> None:
        """Take over what `state` returned. Raises TrainingError where the names are those of other models."""
        ...

    def computed_by(self) -> Mapping[str, Any]:
        """Return which code computes, for the record of a run.

        "scoring" (of each role), "learning" and "sampling" are "compiled", "packed" or "transformers", and sampling may
        also be "cuda graph". "kernels" names what is below them.
        """
        ...

    def weights_hash(self, role: Role) -> str:
        """Return what identifies the weights that a model holds now."""
        ...

    def save(self, role: Role, folder: Path, adapter_alone: bool = False) -> None:
        """Write a model as a Hugging Face folder, or leave the folder that was there as it was.

        adapter_alone: of a model that has an adapter, write that alone, in the folder "adapter" inside
        """
        ...

    def close(self) -> None:
        """Let go of models, memory and processes. The engine is not used after that."""
        ...
