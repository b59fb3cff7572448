"""Computes a model's body by compiled code (`kernels/native.c`): on a CPU, in float32, where there was a compiler.

Factors that never change are multiplied into the matrices once: the weights and biases of norms, and the scale of
attention scores; adapters are added to them. Results are those of `packed` up to rounding. The weights are copies, so a
changed model needs a new `CompiledBody`.
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
from prefloop.models.families import LayerWeights, Norm, family_of
from prefloop.models.matrix import Matrix, concatenate
from prefloop.models.packed import Segment, supports_packed


def is_compilable(model: PreTrainedModel) -> bool:
    """Return whether this module can compute the model, with the same results."""
    if not (native.AVAILABLE and supports_packed(model)):
        return False
    family = family_of(model)
    if not native.fits(family.embedding):
        return False
    first = family.layer_weights(family.layers[0])
    fits = first.head_dim % 2 == 0 and first.head_dim <= native.WIDEST
    return fits and not first.dropout and bool(first.activation)


class CompiledBody:
    """Holds the weights of a model's body in the form that the compiled code reads.

    A token is a column of an integer table [8,n], whose rows are named by `COLUMNS`. Keys and values lie in regions of
    memory: `own` is the address of the region of the token's row, `at` the token's place there, and `own_capacity` how
    many tokens fit. `before`, `before_capacity` and `count` describe the region of the prompt that the row continues.
    """

    COLUMNS = ("id", "position", "at", "own", "own_capacity", "before", "before_capacity", "count")

    def __init__(self, model: PreTrainedModel):
        self.family = family_of(model)
        self.head_dim, norm = self.family.head_dim, self.family.norm
        self.held: list[Any] = []  # This keeps alive what the structures point to.
        weights = map(self.family.layer_weights, self.family.layers)  # They come one at a time, since some are copies.
        first = next(weights)  # All layers have the same form.
        layers = [self._layer(first), *map(self._layer, weights)]
        self.layers = (native.LayerStruct * len(layers))(*layers)
        hidden, query, inner = self.family.embedding.shape[1], self.layers[0].out.in_, self.layers[0].down.in_
        self.kv_heads = len(first.k_proj.weight) // self.head_dim
        # so many numbers a token in each buffer: residual, normalised, qkv, attention, gate and up, activated
        self.widths = (hidden, hidden, self.layers[0].qkv.out, query, self.layers[0].gate_up.out, inner)
        self.struct = native.Body(
            len(self.layers),
            hidden,
            query // self.head_dim,
            self.kv_heads,
            self.head_dim,
            norm.centred,
            first.parallel_residual,
            len(first.gate_up_proj) == 2,
            native.ACTIVATIONS.index(first.activation),
            norm.eps,
            self.family.embedding_scale,
            *map(self._hold, (self.family.embedding, self.family.position_embeddings, norm.weight, norm.bias)),
            ctypes.addressof(self.layers),
        )
        self.rope = torch.empty(2, 0, 0, 0)  # cosines and sines [2,kinds of layers,positions,head_dim/2]

    def _hold(self, x: Tensor | None) -> int | None:
        self.held.append(x if x is None else x.detach())
        return address(self.held[-1])

    def _layer(self, weights: LayerWeights) -> native.LayerStruct:
        weights = weights.merged()
        q, q_norm, scaling = weights.q_proj, weights.q_norm, weights.scaling
        if q_norm is None:
            q = q.rows(lambda x: x * scaling)
        else:
            q_norm = replace(q_norm, weight=q_norm.weight * scaling)
        qkv = fold_norm(concatenate([q, weights.k_proj, weights.v_proj]), weights.attention_norm)
        gate_up = fold_norm(concatenate(weights.gate_up_proj), weights.mlp_norm)
        matrices = qkv, weights.o_proj, gate_up, weights.down_proj
        panels = [Panels(one.weight, one.bias) for one in matrices]
        self.held += panels
        norms = (q_norm, weights.k_norm, weights.attention_out_norm, weights.mlp_out_norm)
        held = [None if norm is None else self._hold(norm.weight) for norm in norms]
        return native.LayerStruct(*(one.struct for one in panels), *held, weights.rope_index)

    def region_size(self, capacity: int, kept: bool = True) -> int:
        """Return how many floats a region for the keys and values of `capacity` tokens has."""
        return 2 * (len(self.layers) if kept else 1) * self.kv_heads * self.head_dim * padded(capacity)

    @torch.no_grad()
    def forward(self, table: Tensor, kept: bool = True) -> Tensor:
        """Return the last hidden states [n,H] of the tokens of a table [8,n].

        kept: whether regions keep the keys and values of every layer, or only those of the layer in progress

        Raises IndexError for a position beyond the learned position embeddings.
        """
        longest = int(table[1].max()) + 1
        if self.family.position_embeddings is not None and longest > len(self.family.position_embeddings):
            raise IndexError(f"the model has {len(self.family.position_embeddings)} positions, not {longest}")
        if longest > self.rope.shape[2]:
            tables = zip(*self.family.rope(torch.arange(2 * longest)), strict=True)
            self.rope = torch.stack([torch.stack(some).squeeze(2) for some in tables])
        n = table.shape[1]
        x, unit, *others = (
            torch.empty(n if part < 4 else min(n, native.PART), width) for part, width in enumerate(self.widths)
        )
        tokens = native.Tokens(
            n,
            int(kept),
            self.rope.shape[2],
            *(table.data_ptr() + 8 * n * column for column in range(len(self.COLUMNS))),
            *map(address, self.rope),
            *map(address, (x, unit, *others)),
        )
        native.forward(self.struct, tokens)
        return unit


def fold_norm(matrix: Matrix, norm: Norm) -> Matrix:
    """Multiply the norm's weight and bias into the matrix. What is left of the norm has no parameters."""
    weight, bias = matrix.weight, matrix.bias
    if norm.bias is not None:
        bias = norm.bias @ weight.t() if bias is None else bias + norm.bias @ weight.t()
    return Matrix(weight * norm.weight, bias)


@torch.no_grad()
def forward_compiled(
    model: PreTrainedModel, wanted: Tensor, prompts: Segment, answers: Segment | None = None
) -> Tensor:
    """Return the same as `packed.forward_packed`, without a gradient."""
    body = CompiledBody(model)
    segments = [prompts] if answers is None else [prompts, answers]
    lengths = torch.cat([segment.mask.sum(-1) for segment in segments])  # tokens of each row
    row = torch.repeat_interleave(lengths)  # the row of each token
    ids, positions = (torch.cat([getattr(s, name)[s.mask] for s in segments]) for name in ("ids", "positions"))
    at = torch.arange(len(ids)) - (lengths.cumsum(0) - lengths)[row]
    size = body.region_size(1, kept=False) // LANES * padded(lengths)
    regions = torch.empty(int(size.sum()))
    own = regions.data_ptr() + 4 * (size.cumsum(0) - size)
    before = torch.arange(len(lengths))  # the prompt that each row continues; prompts continue none
    count = torch.zeros_like(lengths)
    if answers is not None:
        n = len(prompts.ids)
        before[n:] = torch.arange(n).repeat_interleave(len(answers.ids) // n)
        count[n:] = lengths[before[n:]]
    by_row = own, padded(lengths), own[before], padded(lengths)[before], count
    table = torch.stack([ids, positions, at, *(column[row] for column in by_row)])
    return body.forward(table, kept=False)[wanted]
