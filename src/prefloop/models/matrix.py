"""Defines the matrices of a model, each with the low-rank adapter that is trained beside it, if there is one.

LoRA (Hu 2021) adds `b @ a`, scaled, to a matrix that does not change. DoRA (Liu 2024) also learns the length of each
row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from prefloop.kernels.linear import linear, linear_made
from prefloop.models.four_bit import Quantised


class Adapter(NamedTuple):
    """Holds what is added to a matrix [out,in]: b [out,r] times a [r,in]. The scale is already in b.

    gain: what each row of the sum is multiplied by [out] (DoRA); None is 1
    """

    a: Tensor
    b: Tensor
    gain: Tensor | None = None


class Matrix(NamedTuple):
    """Holds a weight [out,in], a bias [out], and an adapter of the weight.

    make: makes the weight, where it is frozen and held in 4 bits; `weight` then has no numbers, but its shape
    """

    weight: Tensor
    bias: Tensor | None = None
    adapter: Adapter | None = None
    make: Callable[[], Tensor] | None = None

    def rows(self, take: Callable[[Tensor], Tensor]) -> Matrix:
        """Return the matrix of other rows: what `take` returns of a tensor [out,*]."""
        adapter = self.adapter
        if adapter is not None:
            gain = None if adapter.gain is None else take(adapter.gain)
            adapter = Adapter(adapter.a, take(adapter.b), gain)
        bias = None if self.bias is None else take(self.bias)
        return Matrix(take(self.weight), bias, adapter, _after(take, self.make))

    def merged(self) -> Matrix:
        """Return the matrix with its adapter added in float32, and none left, in the dtype of the weight."""
        made = self.weight if self.make is None else self.make()
        if self.adapter is None:
            return Matrix(made, self.bias)
        a, b, gain = self.adapter
        weight = made.float() + b.float() @ a.float()
        weight = weight if gain is None else weight * gain.float()[:, None]
        return Matrix(weight.to(self.weight.dtype), self.bias)


def multiply(x: Tensor, matrix: Matrix, onto: Tensor | None = None) -> Tensor:
    """Return x [M,in] times the matrix, added to `onto` [M,out], which may be written over without a gradient.

    An adapter that adds 0 gives the bits of the matrix without it.
    """
    bias, adapter = matrix.bias, matrix.adapter
    if adapter is None:
        return _without_adapter(x, matrix, bias, onto)
    low, b = F.linear(x, adapter.a.to(x.dtype)), adapter.b.to(x.dtype)
    if adapter.gain is None:
        return _without_adapter(x, matrix, bias, onto).addmm_(low, b.t())
    found = _without_adapter(x, matrix).addmm_(low, b.t()) * adapter.gain.to(x.dtype)
    found = found if bias is None else found + bias
    return found if onto is None else onto + found


def _without_adapter(x: Tensor, matrix: Matrix, bias: Tensor | None = None, onto: Tensor | None = None) -> Tensor:
    if matrix.make is None:
        return linear(x, matrix.weight, bias, onto)
    found = linear_made(x, matrix.make, bias)
    return found if onto is None else found.add_(onto)


def _after(take: Callable[[Tensor], Tensor], make: Callable[[], Tensor] | None) -> Callable[[], Tensor] | None:
    return None if make is None else lambda: take(make())


def concatenate(matrices: Sequence[Matrix]) -> Matrix:
    """Return one matrix whose output is the outputs of all `matrices` side by side."""
    biases = [matrix.bias for matrix in matrices if matrix.bias is not None]
    weight = torch.cat([matrix.weight for matrix in matrices])
    return Matrix(weight, torch.cat(biases) if len(biases) == len(matrices) else None, _side_by_side(matrices))


def _side_by_side(matrices: Sequence[Matrix]) -> Adapter | None:
    """Return the adapters of matrices with one input as one; its `b` has a block for each matrix."""
    if all(matrix.adapter is None for matrix in matrices):
        return None
    a, b, gains = list[Tensor](), list[Tensor](), list[Tensor]()
    for weight, _, adapter, _ in matrices:
        own = adapter or Adapter(weight.new_empty(0, weight.shape[1]), weight.new_empty(len(weight), 0))
        a.append(own.a.to(weight.dtype))
        b.append(own.b.to(weight.dtype))
        gains.append(weight.new_ones(len(weight)) if own.gain is None else own.gain)
    plain = all(matrix.adapter is None or matrix.adapter.gain is None for matrix in matrices)
    return Adapter(torch.cat(a), torch.block_diag(*b), None if plain else torch.cat(gains))


def matrix_of(module: Any, dtype: torch.dtype) -> Matrix:
    """Return the matrix of a linear module, or of one that peft has given an adapter.

    Raises TypeError for a module that computes something else, such as one that another library has quantised.
    """
    if is_adapted(module):
        return matrix_of(module.base_layer, dtype)._replace(adapter=_adapter_of(module))
    make = None
    if isinstance(module, Quantised):
        weight, make = module.outline(dtype), partial(module.matrix, dtype)
    elif type(module) is Conv1D:  # GPT-2 stores its matrices transposed.
        weight = module.weight.t()
    elif type(module) is nn.Linear:
        weight = module.weight
    else:
        raise TypeError(f"a {type(module).__name__} is not a plain matrix")
    return Matrix(weight.to(dtype), None if module.bias is None else module.bias.to(dtype), make=make)


def is_adapted(module: Any) -> bool:
    """Return whether a module is a linear one with adapters of peft. The library need not be installed for this."""
    return type(module).__module__ == "peft.tuners.lora.layer" and type(module).__name__ == "Linear"


def _adapter_of(module: Any) -> Adapter | None:
    """Return the adapter that is in use. Raises TypeError for one that computes more than LoRA and DoRA do."""
    names = [] if module.disable_adapters else [name for name in module.active_adapters if name in module.lora_A]
    if module.merged or len(names) > 1:
        raise TypeError("adapters that are merged in place, or several at once, are not supported")
    if not names:
        return None
    name = names[0]
    variant = module.lora_variant.get(name)
    dropout = getattr(module.lora_dropout[name], "p", 0.0) if module.training else 0.0
    known = variant is None or type(variant).__name__ == "DoraLinearVariant"
    if dropout or not known or module.lora_B[name].bias is not None:
        raise TypeError("an adapter with dropout, a bias or another variant than DoRA is not supported")
    a, b = module.lora_A[name].weight, module.lora_B[name].weight * module.scaling[name]
    return Adapter(a, b, None if variant is None else dora_gain(module, name))


def dora_gain(module: Any, name: str) -> Tensor:
    """Return what DoRA multiplies each row by: the length that it learns, over the length that the row has."""
    return module.lora_magnitude_vector[name].weight / row_lengths(module, name)


@torch.no_grad()
def row_lengths(module: Any, name: str) -> Tensor:
    """Return the length of each row of a matrix with its adapter, in float32. DoRA takes it for a constant."""
    weight = module.base_layer.weight
    weight = (weight.t() if isinstance(module.base_layer, Conv1D) else weight).float()
    delta = module.lora_B[name].weight.float() @ module.lora_A[name].weight.float()
    return torch.linalg.norm(weight + module.scaling[name] * delta, dim=1)
