"""Sends a model to other processes: first its outline, without numbers, and then one tensor after the other.

So no process holds a second copy of the weights. Outlines are pickles, which only ranks of one group send one another.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from prefloop.errors import ModelError
from prefloop.models.without_hub import without_hub_kernels


class Spec(NamedTuple):
    """Says what a tensor of an outline looks like. `number` is its place among all tensors of the outline."""

    number: int
    shape: tuple[int, ...]
    dtype: Any
    is_parameter: bool
    learns: bool


class Outline(NamedTuple):
    """Is a model without its numbers. Tensors that parts of it share stay shared."""

    pickled: bytes
    specs: tuple[Spec, ...]

    def build(self, make: Callable[[Spec], Tensor]) -> tuple[Any, list[Tensor]]:
        """Return a model with empty tensors, and these by number. make: returns each of them"""
        made: dict[int, Tensor] = {}
        for spec in self.specs:
            empty = make(spec)
            made[spec.number] = nn.Parameter(empty, spec.learns) if spec.is_parameter else empty
        with without_hub_kernels():  # Adapters import peft.
            return _Unpickler(io.BytesIO(self.pickled), made).load(), list(made.values())


def outline_of(model: nn.Module | Mapping[Any, nn.Module]) -> tuple[Outline, list[Tensor]]:
    """Return the outline of a model, or of several, and its tensors by number.

    Raises ModelError where its code cannot be sent.
    """
    stream = io.BytesIO()
    pickler = _Pickler(stream)
    try:
        pickler.dump(model)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ModelError(f"this model cannot be sent to other ranks ({error}). Set [project] ranks = 1.") from error
    return Outline(stream.getvalue(), tuple(_spec(*one) for one in enumerate(pickler.tensors))), pickler.tensors


def _spec(number: int, x: Tensor) -> Spec:
    return Spec(number, tuple(x.shape), x.dtype, isinstance(x, nn.Parameter), x.requires_grad)


class _Pickler(pickle.Pickler):
    def __init__(self, stream: io.BytesIO):
        super().__init__(stream)
        self.tensors: list[Tensor] = []
        self.numbers: dict[int, int] = {}

    def persistent_id(self, obj: Any) -> int | None:
        if not isinstance(obj, Tensor):
            return None
        if id(obj) not in self.numbers:
            self.numbers[id(obj)] = len(self.tensors)
            self.tensors.append(obj)
        return self.numbers[id(obj)]


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO, made: dict[int, Tensor]):
        super().__init__(stream)
        self.made = made

    def persistent_load(self, number: Any) -> Tensor:
        return self.made[number]
