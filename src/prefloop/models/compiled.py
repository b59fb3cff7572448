"""A model's body read by compiled code (`kernels/native.c`): on a CPU, in float32, where a compiler was at hand.

What never changes is multiplied into the matrices once: the weights and biases of norms, the scale of attention scores.
Numbers are those of `lean` up to rounding. The weights are copies: make a new one when they have changed.
"""

from __future__ import annotations

import ctypes
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from prefloop.kernels import native
from prefloop.kernels.native import LANES, Panels, address, padded
from prefloop.models.families import Matrix, Norm, Parts, layout
from prefloop.models.packed import Block, beside, is_lean


def is_compilable(model: PreTrainedModel) -> bool:
    """Whether this module computes what the model does, and may."""
    if not (native.AVAILABLE and is_lean(model)):
        return False
    known = layout(model)
    first = known.parts(known.blocks[0])
    precise = known.embedding.device.type == "cpu" and known.dtype == torch.float32
    return precise and not first.dropout and bool(first.does) and first.size % 2 == 0 and first.size <= native.WIDEST


class Compiled:
    """The weights of a model's body, and where its tokens keep their keys and values.

    A token is a column of a table [8,n] of integers, see `COLUMNS`. Regions are tensors of `room` numbers a token.
    """

    COLUMNS = ("id", "position", "at", "own", "own_capacity", "before", "before_capacity", "count")

    def __init__(self, model: PreTrainedModel):
        self.known = layout(model)
        self.size, norm = self.known.size, self.known.norm
        self.held: list[Any] = []  # what the structures point to
        parts = map(self.known.parts, self.known.blocks)  # one after the other: some are copies
        first = next(parts)  # what it does, all layers do
        layers = [self._layer(first), *map(self._layer, parts)]
        self.layers = (native.Layer * len(layers))(*layers)
        hidden, asking, inner = self.known.embedding.shape[1], self.layers[0].out.in_, self.layers[0].down.in_
        self.groups = len(first.k[0]) // self.size
        # of a token's x, unit, asked, read, wide, between
        self.widths = (hidden, hidden, self.layers[0].qkv.out, asking, self.layers[0].wide.out, inner)
        self.struct = native.Body(
            len(self.layers),
            hidden,
            asking // self.size,
            self.groups,
            self.size,
            norm.centred,
            first.parallel,
            len(first.wide) == 2,
            native.DOES.index(first.does),
            norm.epsilon,
            self.known.scale,
            *map(self._hold, (self.known.embedding, self.known.places, norm.weight, norm.bias)),
            ctypes.addressof(self.layers),
        )
        self.turns = torch.empty(2, 0, 0, 0)  # cosines and sines [2,tables,positions,size/2]

    def _hold(self, x: Tensor | None) -> int | None:
        self.held.append(x if x is None else x.detach())
        return address(self.held[-1])

    def _layer(self, one: Parts) -> native.Layer:
        q, of_heads = one.q, (one.q_norm, one.k_norm)
        if one.q_norm is None:
            q = (q[0] * one.scaling, None if q[1] is None else q[1] * one.scaling)
        else:
            of_heads = replace(one.q_norm, weight=one.q_norm.weight * one.scaling), one.k_norm
        matrices = after(beside([q, one.k, one.v]), one.before), one.out, after(beside(one.wide), one.after), one.down
        panels = [Panels(weight, bias) for weight, bias in matrices]
        self.held += panels
        norms = (*of_heads, one.out_norm, one.down_norm)
        held = [None if norm is None else self._hold(norm.weight) for norm in norms]
        return native.Layer(*(one.struct for one in panels), *held, one.turn)

    def room(self, capacity: int, kept: bool = True) -> int:
        """Numbers that a region of `capacity` tokens takes."""
        return 2 * (len(self.layers) if kept else 1) * self.groups * self.size * padded(capacity)

    @torch.no_grad()
    def states(self, table: Tensor, kept: bool = True) -> Tensor:
        """Final states [n,H] of the tokens of a table [8,n]. Keys and values are `kept` of every layer, or of none."""
        longest = int(table[1].max()) + 1
        if self.known.places is not None and longest > len(self.known.places):
            raise IndexError(f"the model knows {len(self.known.places)} positions, not {longest}")
        if longest > self.turns.shape[2]:
            tables = zip(*self.known.turning(torch.arange(2 * longest)), strict=True)
            self.turns = torch.stack([torch.stack(some).squeeze(2) for some in tables])
        n = table.shape[1]
        x, unit, *others = (
            torch.empty(n if part < 4 else min(n, native.PART), width) for part, width in enumerate(self.widths)
        )
        tokens = native.Tokens(
            n,
            int(kept),
            self.turns.shape[2],
            *(table.data_ptr() + 8 * n * column for column in range(len(self.COLUMNS))),
            *map(address, self.turns),
            *map(address, (x, unit, *others)),
        )
        native.forward(self.struct, tokens)
        return unit


def after(matrix: Matrix, norm: Norm) -> Matrix:
    """What gives of a vector that is only divided by its norm what the matrix gives of what the norm makes of it."""
    weight, bias = matrix
    if norm.bias is not None:
        bias = norm.bias @ weight.t() if bias is None else bias + norm.bias @ weight.t()
    return weight * norm.weight, bias


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
