"""Compiled code reads memory by address. Whether what stands there is the tensor's numbers is decided here."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def is_plain(x: Tensor) -> bool:
    """Whether a tensor is torch's own kind. A subclass (sharded, quantised) may keep its numbers elsewhere."""
    return type(x) in (Tensor, nn.Parameter) and x.layout == torch.strided


def refuse_unless_plain(x: Tensor) -> None:
    """Raise TypeError for a tensor that compiled code must not read."""
    if not is_plain(x):
        raise TypeError(
            f"compiled code cannot read a {type(x).__name__} with layout {x.layout}: its numbers may not stand at its "
            "address. Give it a plain tensor: x.full_tensor() or x.to_local() of a sharded one, x.to_dense() of a "
            "sparse one."
        )
