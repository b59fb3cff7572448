"""A Llama body read by compiled code (`ops/native.c`): on a CPU, in float32, where a compiler was at hand.

What never changes is multiplied into the matrices once: the weights of norms, the scale of attention scores. Numbers
are those of `lean` up to rounding. The weights are copies: make a new one when they have changed.
"""

from __future__ import annotations

import ctypes
import math
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from prefloop.models.lean import Block, beside, is_lean, is_silu, matrices, turning
from prefloop.ops import native
from prefloop.ops.native import LANES, Panels, address, padded


def is_compilable(model: PreTrainedModel) -> bool:
    """Whether this module computes what the model does, and may."""
    if not (native.AVAILABLE and is_lean(model)):
        return False
    body = model.base_model
    weight = body.embed_tokens.weight
    precise = weight.device.type == "cpu" and weight.dtype == torch.float32
    size = body.layers[0].self_attn.head_dim
    dropout = model.training and body.layers[0].self_attn.attention_dropout
    return precise and not dropout and is_silu(body.layers[0].mlp) and size % 2 == 0 and size <= native.WIDEST


class Compiled:
    """The weights of a model's body, and where its tokens keep their keys and values.

    A token is a column of a table [8,n] of integers, see `COLUMNS`. Regions are tensors of `room` numbers a token.
    """

    COLUMNS = ("id", "position", "at", "own", "own_capacity", "before", "before_capacity", "count")

    def __init__(self, model: PreTrainedModel):
        self.body: Any = model.base_model
        first = self.body.layers[0].self_attn
        self.size = first.head_dim
        self.groups = first.k_proj.out_features // self.size
        self.held: list[Any] = []  # what the structures point to
        self.layers = (native.Layer * len(self.body.layers))(*map(self._layer, self.body.layers))
        embedding, norm = self.body.embed_tokens.weight, self.body.norm
        asking, wide = self.layers[0].out.in_, self.layers[0].down.in_
        # of a token's x, unit, asked, read, wide, gated
        self.widths = (embedding.shape[1], embedding.shape[1], self.layers[0].qkv.out, asking, 2 * wide, wide)
        self.struct = native.Body(
            len(self.layers),
            embedding.shape[1],
            asking // self.size,
            self.groups,
            self.size,
            norm.variance_epsilon,
            self._hold(embedding),
            self._hold(norm.weight),
            ctypes.addressof(self.layers),
        )
        self.turns = torch.empty(0), torch.empty(0)

    def _hold(self, x: Tensor) -> int | None:
        self.held.append(x.detach())
        return address(self.held[-1])

    def _layer(self, layer: Any) -> native.Layer:
        attention, mlp = layer.self_attn, layer.mlp
        q, k, v = matrices([attention.q_proj, attention.k_proj, attention.v_proj], torch.float32)
        of_heads: list[int | None] = [None, None]
        if hasattr(attention, "q_norm"):
            of_heads = [self._hold(attention.q_norm.weight * attention.scaling), self._hold(attention.k_norm.weight)]
        else:
            q = (q[0] * attention.scaling, None if q[1] is None else q[1] * attention.scaling)
        parts = [
            (beside([q, k, v]), layer.input_layernorm),
            (*matrices([attention.o_proj], torch.float32), None),
            (*matrices([mlp.gate_proj, mlp.up_proj], torch.float32, math.inf), layer.post_attention_layernorm),
            (*matrices([mlp.down_proj], torch.float32), None),
        ]
        panels = [Panels(weight if norm is None else weight * norm.weight, bias) for (weight, bias), norm in parts]
        self.held += panels
        return native.Layer(*(one.struct for one in panels), *of_heads)

    def room(self, capacity: int, kept: bool = True) -> int:
        """Numbers that a region of `capacity` tokens takes."""
        return 2 * (len(self.layers) if kept else 1) * self.groups * self.size * padded(capacity)

    @torch.no_grad()
    def states(self, table: Tensor, kept: bool = True) -> Tensor:
        """Final states [n,H] of the tokens of a table [8,n]. Keys and values are `kept` of every layer, or of none."""
        longest = int(table[1].max()) + 1
        if longest > len(self.turns[0]):
            cos, sin = turning(self.body, torch.arange(2 * longest), torch.float32)
            self.turns = cos.contiguous(), sin.contiguous()
        n = table.shape[1]
        x, unit, *others = (
            torch.empty(n if part < 4 else min(n, native.PART), width) for part, width in enumerate(self.widths)
        )
        tokens = native.Tokens(
            n,
            int(kept),
            *(table.data_ptr() + 8 * n * column for column in range(len(self.COLUMNS))),
            *map(address, self.turns),
            *map(address, (x, unit, *others)),
        )
        native.forward(self.struct, tokens)
        return unit


@torch.no_grad()
def read(model: PreTrainedModel, wanted: Tensor, first: Block, then: Block | None = None) -> Tensor:
    """As `lean.read`, without a gradient."""
    compiled = Compiled(model)
    blocks = [first] if then is None else [first, then]
    lengths = torch.cat([block.mask.sum(-1) for block in blocks])  # of each row
    row = torch.repeat_interleave(lengths)  # of each token
    ids, positions = (torch.cat([getattr(b, name)[b.mask] for b in blocks]) for name in ("ids", "positions"))
    at = torch.arange(len(ids)) - (lengths.cumsum(0) - lengths)[row]
    room = compiled.room(1, kept=False) // LANES * padded(lengths)
    regions = torch.empty(int(room.sum()))
    own = regions.data_ptr() + 4 * (room.cumsum(0) - room)
    before = torch.arange(len(lengths))  # the row that each row goes on from; the first ones from none
    count = torch.zeros_like(lengths)
    if then is not None:
        before[len(first.ids) :] = torch.arange(len(first.ids)).repeat_interleave(len(then.ids) // len(first.ids))
        count[len(first.ids) :] = lengths[before[len(first.ids) :]]
    of_rows = own, padded(lengths), own[before], padded(lengths)[before], count
    table = torch.stack([ids, positions, at, *(column[row] for column in of_rows)])
    return compiled.states(table, kept=False)[wanted]
