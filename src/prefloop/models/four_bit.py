"""Holds the frozen matrices of a model's layers in 4 bits (NF4, doubly quantised: QLoRA, Dettmers 2023).

A matrix is made anew whenever it is read, and nothing keeps it: not even the backward pass, which makes it once more.
bitsandbytes quantises and dequantises. Its own modules are not used, because on some processors they compute in
training by other code than in evaluation: the first ratio of a step would not be exactly 1.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from prefloop.errors import ConfigError
from prefloop.kernels.linear import linear_made
from prefloop.models.without_hub import needs_bitsandbytes

BLOCK, SCALES_BLOCK = 64, 256  # so many numbers share a scale, and so many scales share one of their own
BYTES = 1 / 2 + 1 / BLOCK + 4 / (BLOCK * SCALES_BLOCK)  # of a number: its own, and its part of scales and table
SAMPLED = 256  # numbers of each matrix that tell one model from another
ASKED = "[model] load_in_4bit"
HELD = ("packed", "scales", "table", "sample")


class Quantised(nn.Module):
    """Is a linear module whose matrix is in 4 bits. All that it holds are frozen bytes, so that no cast changes it.

    packed: two numbers in a byte;  scales: one of each block, in 8 bits;  table: float32, what scales are made of
    sample: numbers of the matrix from before, which identify the model
    """

    packed: Tensor
    scales: Tensor
    table: Tensor
    sample: Tensor
    shape: torch.Size
    dtype: torch.dtype
    bias: Tensor | None

    @property
    def weight(self) -> Tensor:
        """Return the matrix, as the module from before held it, in the same number type."""
        return self.dequantised(self.dtype)

    def matrix(self, dtype: torch.dtype) -> Tensor:
        """Return the matrix [out,in]. A Conv1D holds it transposed."""
        weight = self.dequantised(dtype)
        return weight.t() if isinstance(self, Conv1D) else weight

    def outline(self, dtype: torch.dtype) -> Tensor:
        """Return the shape of the matrix [out,in] as a tensor that takes no memory: all of it is one NaN."""
        shape = reversed(self.shape) if isinstance(self, Conv1D) else self.shape
        return torch.full((1, 1), torch.nan, dtype=dtype, device=self.packed.device).expand(*shape)

    @torch.no_grad()
    def dequantised(self, dtype: torch.dtype) -> Tensor:
        by = _library()
        table = self.table.view(torch.float32)
        of_scales = {"code": _code(table.device), "blocksize": SCALES_BLOCK}
        scales = by.dequantize_blockwise(self.scales, absmax=table[1:], **of_scales) + table[0]
        state = by.QuantState(absmax=scales, shape=self.shape, dtype=dtype, blocksize=BLOCK, quant_type="nf4")
        found: Tensor = by.dequantize_4bit(self.packed, state)
        return found

    def forward(self, x: Tensor) -> Tensor:
        """Compute what the module from before did, for models that transformers computes."""
        found = linear_made(x.reshape(-1, x.shape[-1]), partial(self.matrix, x.dtype), self.bias)
        return found.view(*x.shape[:-1], -1)


class Linear4bit(Quantised, nn.Linear):  # type: ignore[misc, override]
    pass


class Conv1D4bit(Quantised, Conv1D):  # type: ignore[misc]
    pass


KINDS: dict[type, type] = {nn.Linear: Linear4bit, Conv1D: Conv1D4bit}


@cache  # Two threads may read matrices at once, and must not import at once.
def _library() -> Any:
    return needs_bitsandbytes(ASKED).functional


@cache
def _code(device: torch.device) -> Tensor:
    """Return the 256 values of a scale, which bitsandbytes computes anew at every call."""
    code: Tensor = _library().create_dynamic_map(signed=True)
    return code.to(device)


def quantise(model: PreTrainedModel) -> None:
    """Hold the linear modules of a model's layers in 4 bits; embeddings, norms and head stay. Raises ConfigError."""
    needs_bitsandbytes(ASKED)
    head = model.get_output_embeddings()
    found = [part for part in model.base_model.modules() if type(part) in KINDS and part is not head]
    if not found:
        raise ConfigError(
            f"the layers of a {type(model).__name__} have no plain linear modules, which are what [model] load_in_4bit "
            "holds in 4 bits. Take it out."
        )
    for module in found:
        _quantise(module)
    for parameter in model.parameters():  # A file stays mapped as a whole while one of its tensors is in use.
        parameter.data = parameter.data.clone()


@torch.no_grad()
def _quantise(module: Any) -> None:
    weight = module.weight.detach()
    del module.weight
    module.__class__ = KINDS[type(module)]
    packed, state = _library().quantize_4bit(weight, blocksize=BLOCK, compress_statistics=True, quant_type="nf4")
    table = torch.cat([state.offset.reshape(1), state.state2.absmax])
    held = packed, state.absmax, table.view(torch.uint8), sampled(weight)
    for name, tensor in zip(HELD, held, strict=True):
        setattr(module, name, nn.Parameter(tensor, requires_grad=False))
    module.shape, module.dtype = weight.shape, weight.dtype


def sampled(weight: Tensor) -> Tensor:
    """Return bytes that identify a matrix, in any number type: some of its numbers, rounded."""
    flat = weight.detach().flatten()
    some = flat[:: max(1, len(flat) // SAMPLED)][:SAMPLED]
    return some.to(torch.bfloat16).clone(memory_format=torch.contiguous_format).view(torch.uint8)


def put_weight(module: Any, weight: Tensor) -> None:
    """Give a linear module a frozen matrix. One that was in 4 bits is an ordinary module again."""
    if isinstance(module, Quantised):
        for name in HELD:
            delattr(module, name)
        kind: Any = Conv1D if isinstance(module, Conv1D) else nn.Linear
        module.__class__ = kind
    module.weight = nn.Parameter(weight, requires_grad=False)
