"""Counts what a layer of a model keeps of a token, by a forward pass on torch's meta device, which has no numbers.

It is for models that transformers computes: nobody wrote down what their code keeps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from prefloop.models.load import disable_dropout

LENGTHS = 32, 64  # tokens of the two passes; what attention keeps of pairs of tokens is told from the rest by them


class Kept(NamedTuple):
    """Holds what the layers of a model keep and let go of each token, in bytes.

    kept: for the backward pass;  freed: what is made and not kept
    pairs: what is kept of each token and each token of its text (attention that holds its scores)
    """

    kept: float
    freed: float
    pairs: float


def meta_pass(model: Any) -> Kept | None:
    """Return what the layers of a model on the meta device keep; None where it cannot be passed through there."""
    disable_dropout(model)
    model.train()
    found = []
    for length in LENGTHS:
        passed = _passed(model, length)
        if passed is None:
            return None
        found.append(passed)
    (kept, pairs), (made, made_pairs) = (_parted(*totals) for totals in zip(*found, strict=True))
    fused = getattr(model.config, "_attn_implementation", "") != "eager"  # Only on this device it holds scores.
    return Kept(kept, max(0.0, made - kept), 0.0 if fused else pairs)


def _parted(short: float, long: float) -> tuple[float, float]:
    """Return the bytes of each token, and of each pair of tokens, from those of two texts."""
    a, b = LENGTHS
    pairs = (long / b - short / a) / (b - a)
    return short / a - pairs * a, pairs


def _passed(model: Any, length: int) -> tuple[float, float] | None:
    """Return the bytes that a pass on one text keeps, and those that it makes."""
    own = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    ids = torch.zeros(1, length, dtype=torch.long, device="meta")
    positions = torch.arange(length, device="meta")[None]
    mask = torch.zeros(1, 1, length, length, dtype=model.dtype, device="meta")
    for how in ({"position_ids": positions, "attention_mask": mask}, {}):  # Older models take no such mask.
        kept, made = _Storages(own), _Storages(own)
        try:
            with torch.autograd.graph.saved_tensors_hooks(kept.add, lambda x: x), _Watched(made.add):
                model.base_model(input_ids=ids, use_cache=False, **how)
        except (RuntimeError, ValueError, TypeError):
            continue
        return kept.total(), made.total()
    return None


class _Storages:
    """Adds up the memory of tensors, each once, but for a model's own."""

    def __init__(self, own: set[int]):
        self.own, self.seen = own, dict[int, Any]()

    def add(self, x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage._cdata not in self.own:
            self.seen[storage._cdata] = storage  # It stays alive, so that its number is not given again.
        return x

    def total(self) -> float:
        return float(sum(storage.nbytes() for storage in self.seen.values()))


class _Watched(TorchDispatchMode):
    def __init__(self, add: Callable[[Tensor], Tensor]):
        super().__init__()
        self.add = add

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, Tensor):
                self.add(x)
        return out
