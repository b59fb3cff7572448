"""A layer of a Llama body as generating wants it, on a CPU in full precision: few rows, one token each, very often.

What never changes from token to token is multiplied into the matrices once: the weights of norms, the scale of
attention scores. The two halves that rotary positions turn into each other stand side by side, so that turning is one
complex product. Numbers are those of `lean.Layer` up to rounding; the weights are copies, and have no gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from prefloop.models.lean import beside, matrices, turning
from prefloop.ops.linear import laid_out, linear

Matrix = tuple[Tensor, Tensor | None]  # weight, bias


def is_foldable(model: Any) -> bool:
    """Of the models that `lean.is_lean` accepts."""
    weight = model.get_input_embeddings().weight
    precise = weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.float64)
    return precise and model.config.hidden_act in ("silu", "swish")


class Unit:
    """x [M,H] divided by its root mean square (Zhang 2019); the weights are in the matrix that comes next."""

    def __init__(self, norm: Any):
        self.weight: Tensor = norm.weight.detach()
        self.small = self.weight.new_full((1,), norm.variance_epsilon)

    def __call__(self, x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return x * torch.addcmul(self.small, length, length, value=1 / x.shape[-1]).rsqrt_()


class Folded:
    """See `lean.Layer`: the same methods for the same layer."""

    scaling = 1.0  # what is left to multiply attention scores by

    def __init__(self, layer: Any, rows: int):
        attention, mlp = layer.self_attn, layer.mlp
        self.size = attention.head_dim
        self.before, self.after = Unit(layer.input_layernorm), Unit(layer.post_attention_layernorm)
        self.q_norm = self.k_norm = None
        if hasattr(attention, "q_norm"):
            self.q_norm, self.k_norm = Unit(attention.q_norm), Unit(attention.k_norm)
            order = _pairs(self.size)
            self.q_weight = self.q_norm.weight[order] * attention.scaling
            self.k_weight = self.k_norm.weight[order]
        factor = 1.0 if self.q_norm is not None else attention.scaling
        q, k, v = matrices([attention.q_proj, attention.k_proj, attention.v_proj], self.before.weight.dtype)
        self.asking, self.groups = (len(weight) // self.size for weight, _ in (q, k))
        self.qkv = _ready(beside([self._paired(*q, factor), self._paired(*k), v]), rows, self.before)
        (gate_up,) = matrices([mlp.gate_proj, mlp.up_proj], q[0].dtype, fuse=True)
        self.gate_up = _ready(gate_up, rows, self.after)
        self.out, self.down = (_ready(one, rows) for one in matrices([attention.o_proj, mlp.down_proj], q[0].dtype))

    def _paired(self, weight: Tensor, bias: Tensor | None, factor: float = 1.0) -> Matrix:
        """A projection to heads, each head's rows in the order of pairs."""

        def paired(x: Tensor) -> Tensor:
            return x.unflatten(0, (-1, self.size))[:, _pairs(self.size)].flatten(0, 1) * factor

        return paired(weight), None if bias is None else paired(bias)

    @staticmethod
    def turns(body: Any, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """What `asked` multiplies queries and keys by, of tokens at `positions` [M]: [M,1,size/2] complex."""
        return (torch.complex(*turning(body, positions, dtype)),)

    def asked(self, x: Tensor, turn: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [M,asking,size], keys and values [M,groups,size] of tokens x [M,H]."""
        found = linear(self.before(x), *self.qkv).view(len(x), -1, self.size)
        q, k, v = found.split((self.asking, self.groups, self.groups), dim=1)
        if self.q_norm is not None and self.k_norm is not None:
            q.copy_(self.q_norm(q) * self.q_weight)
            k.copy_(self.k_norm(k) * self.k_weight)
        both = found[:, : self.asking + self.groups].unflatten(2, (-1, 2))
        torch.view_as_complex(both).mul_(turn[0])
        return q, k, v

    def rest(self, x: Tensor, read: Tensor) -> Tensor:
        """The layer's result for tokens x [M,H], given what their attention read [M,heads*size]."""
        x = linear(read, *self.out).add_(x)
        gate, up = linear(self.after(x), *self.gate_up).chunk(2, dim=-1)
        return linear(F.silu(gate).mul_(up), *self.down).add_(x)

    def keys(self, keys: Tensor) -> Tensor:
        """Keys [*,size] that transformers computed, in the order of pairs."""
        return keys[..., _pairs(self.size)]


def _pairs(size: int) -> Tensor:
    """0, h, 1, h + 1, ... of two halves of h."""
    return torch.arange(size).view(2, -1).T.flatten()


def _ready(matrix: Matrix, rows: int, after: Unit | None = None) -> Matrix:
    """Laid out for about `rows` rows, and to be applied after the norm `after`."""
    weight, bias = matrix
    weight = weight.detach() if after is None else weight.detach() * after.weight
    return laid_out(weight, rows), None if bias is None else bias.detach()
