"""Decides whether compiled code, which reads memory by address, finds a tensor's numbers there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor, nn

P = ParamSpec("P")
R = TypeVar("R")


def is_plain(x: Tensor) -> bool:
    """Return whether a tensor is torch's own kind. A subclass (sharded, quantised) may keep its numbers elsewhere."""
    return type(x) in (Tensor, nn.Parameter) and x.layout == torch.strided


def whole(x: Tensor) -> Tensor:
    """Return a tensor with all its numbers. Of a sharded one these are gathered, for which every rank must ask."""
    gather: Callable[[], Tensor] | None = getattr(x, "full_tensor", None)
    return x if gather is None else gather()


def refuse_unless_plain(x: Tensor) -> None:
    """Raise TypeError for a tensor that compiled code must not read."""
    if not is_plain(x):
        raise TypeError(
            f"compiled code cannot read a {type(x).__name__} with layout {x.layout}: its numbers may not stand at its "
            "address. Give it a plain tensor: x.full_tensor() or x.to_local() of a sharded one, x.to_dense() of a "
            "sparse one."
        )


def plain_only(entry: Callable[P, R]) -> Callable[P, R]:
    """Return a function that gives its tensors to compiled code, and before that refuses those that are not plain."""

    @wraps(entry)
    def checked(*args: P.args, **named: P.kwargs) -> R:
        _refuse_in((*args, *named.values()))
        return entry(*args, **named)

    return checked


def _refuse_in(values: Iterable[object]) -> None:
    for value in values:
        if isinstance(value, Tensor):
            refuse_unless_plain(value)
        elif isinstance(value, tuple | list):
            _refuse_in(value)
