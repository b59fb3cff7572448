"""Models of the form that `layout` knows, computed from their own weights: as transformers does, with less work.

Matrices that share an input are one matrix, and padding is not computed: the real tokens of a batch stand one after the
other, and only attention, which is small beside the matrices, sees rows. `is_lean` says which models this is for; all
others run through transformers, which is also what the tests compare with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from prefloop.kernels.attention import Heads, Turn, attention, can_pack, plan
from prefloop.kernels.linear import linear, rms_norm, rotary, silu_gate
from prefloop.models.families import Matrix, Norm, Parts, is_known, layout

FUSE_UP_TO = 9 << 20  # elements of matrices that are copied together: the gates of half a billion parameters just are
ACTS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
}


class Layer:
    """One layer, with matrices that share an input side by side."""

    def __init__(self, parts: Parts):
        self.parts = parts
        self.heads = Heads(*(len(weight) // parts.size for weight, _ in (parts.q, parts.k)))
        self.qkv, self.wide = fused([parts.q, parts.k, parts.v]), fused(parts.wide)
        self.act = ACTS.get(parts.does, parts.act)

    def vectors(self, x: Tensor) -> Tensor:
        """Queries, keys and values of tokens x [M,H] side by side [M,A,size], before rotary positions."""
        found = times(normed(x, self.parts.before), self.qkv).view(len(x), -1, self.parts.size)
        if self.parts.q_norm is None or self.parts.k_norm is None:
            return found
        q, k, v = found.split((self.heads.asking, self.heads.groups, self.heads.groups), dim=1)
        return torch.cat([normed(q, self.parts.q_norm), normed(k, self.parts.k_norm), v], dim=1)

    def asked(self, x: Tensor, turns: Sequence[Turn]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [M,asking,size], keys and values [M,groups,size] of tokens x [M,H]; turns: see `Layout.turning`."""
        turned = rotary(self.vectors(x), *turns[self.parts.turn], self.heads.asking + self.heads.groups)
        q, k, v = turned.split((self.heads.asking, self.heads.groups, self.heads.groups), dim=1)
        return q, k, v

    def rest(self, x: Tensor, read: Tensor) -> Tensor:
        """The layer's result for tokens x [M,H], given what their attention read [M,heads*size]."""
        parts = self.parts
        # before x is added to: where no gradient is wanted, it may be written over
        wide = times(normed(x, parts.after), self.wide) if parts.parallel else None
        x = added(x, read, parts.out, parts.out_norm)
        if wide is None:
            wide = times(normed(x, parts.after), self.wide)
        return added(x, self._between(wide), parts.down, parts.down_norm)

    def _between(self, wide: Tensor) -> Tensor:
        if len(self.parts.wide) == 1:
            return self.act(wide)
        if self.parts.does == "silu":
            return silu_gate(wide)
        gate, up = wide.chunk(2, dim=-1)
        return self.act(gate) * up


def fused(parts: Sequence[Matrix]) -> list[Matrix]:
    """As one, where that is worth the copy."""
    few = sum(weight.numel() for weight, _ in parts) <= FUSE_UP_TO
    return [beside(parts)] if few and len(parts) > 1 else list(parts)


def beside(parts: Sequence[Matrix]) -> Matrix:
    """As one matrix, whose results stand side by side."""
    biases = [bias for _, bias in parts if bias is not None]
    return torch.cat([weight for weight, _ in parts]), torch.cat(biases) if len(biases) == len(parts) else None


def times(x: Tensor, matrices: Sequence[Matrix]) -> Tensor:
    """x [M,in] times each, [M,out] side by side."""
    if len(matrices) == 1:
        return linear(x, *matrices[0])
    if x.is_cuda and not torch.is_grad_enabled() and all(bias is None for _, bias in matrices):
        out = x.new_empty(len(x), sum(len(weight) for weight, _ in matrices))
        for (weight, _), place in zip(matrices, out.split([len(weight) for weight, _ in matrices], dim=1), strict=True):
            torch.mm(x, weight.t(), out=place)
        return out
    return torch.cat([linear(x, *one) for one in matrices], dim=-1)


def added(x: Tensor, read: Tensor, matrix: Matrix, norm: Norm | None) -> Tensor:
    """x [M,out], and onto it what the matrix makes of `read` [M,in]."""
    return linear(read, *matrix, onto=x) if norm is None else x + normed(linear(read, *matrix), norm)


def normed(x: Tensor, how: Norm) -> Tensor:
    if how.weight.dtype != x.dtype:
        return normed(x.to(how.weight.dtype), how).to(x.dtype)
    if how.centred:
        return F.layer_norm(x, x.shape[-1:], how.weight, how.bias, how.epsilon)
    return rms_norm(x, how.weight, how.epsilon)


# -- reading a batch ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """Sequences [N,T] of a batch, right-padded: what each token is, which are real, and where they stand."""

    ids: Tensor
    mask: Tensor
    positions: Tensor


Look = Callable[[Layer, Tensor], Tensor]  # what tokens [M,H] read from their rows in a layer [M,heads*size]
Kept = Callable[[int, Tensor, Tensor], object]


def read(
    model: PreTrainedModel, wanted: Tensor, first: Block, then: Block | None = None, kept: Kept | None = None
) -> Tensor:
    """Final states [n,H] of the tokens `wanted` [n]: places among the real tokens of `first`, then those of `then`.

    Each row of `first` is continued by equally many rows of `then`, which stand together. `kept` is given the keys and
    values [M,groups,size] of each layer, by its number.
    """
    known = layout(model)
    blocks = [first] if then is None else [first, then]
    ids, positions = (torch.cat([getattr(b, name)[b.mask] for b in blocks]) for name in ("ids", "positions"))
    turns = known.turning(positions)
    layers = (Layer(known.parts(block)) for block in known.blocks)
    one = next(layers)
    x = known.embedded(ids, positions)
    packed = can_pack(x, one.parts.size, one.parts.dropout) and kept is None
    look = _packed(blocks, turns, one.heads) if packed else _in_rows(blocks, turns, x.dtype, kept)
    for layer in layers:
        x = one.rest(x, look(one, x))
        one = layer
    # Nobody reads the others any more. As an embedding: where a place is wanted several times, as a prompt's end is,
    # the gradient of plain indexing is added up by several threads in whatever order they come.
    asked, found = F.embedding(wanted, x), F.embedding(wanted, look(one, x))
    return normed(one.rest(asked, found), known.norm)


def _packed(blocks: Sequence[Block], turns: Sequence[Turn], heads: Heads) -> Look:
    made = plan(heads, *(block.mask.sum(-1) for block in blocks))
    return lambda layer, x: attention(
        layer.vectors(x), turns[layer.parts.turn], made, layer.parts.scaling, layer.parts.dropout
    )


def _in_rows(blocks: Sequence[Block], turns: Sequence[Turn], dtype: torch.dtype, kept: Kept | None) -> Look:
    """On padded rows, by torch's fused kernels."""
    number = count()
    first, then = blocks[0], blocks[-1]
    places = [b.mask.flatten().nonzero().squeeze(1) for b in blocks]
    mask = _continued(first, then, dtype) if len(blocks) > 1 else None

    def look(layer: Layer, x: Tensor) -> Tensor:
        asked = layer.asked(x, turns)
        if kept is not None:
            kept(next(number), *asked[1:])
        parts = [part.tensor_split([len(places[0])]) for part in asked]
        q, k, v = (padded_rows(part[0], first, places[0]) for part in parts)
        found = [_attend(layer, q, k, v, None)]
        if mask is not None:
            q, own_k, own_v = (padded_rows(part[1], then, places[1]) for part in parts)
            times = len(then.ids) // len(first.ids)
            k, v = (torch.cat([_repeated(a, times), b], dim=2) for a, b in ((k, own_k), (v, own_v)))
            found.append(_attend(layer, q, k, v, mask))
        return torch.cat([f.transpose(1, 2).flatten(0, 1).flatten(1)[at] for f, at in zip(found, places, strict=True)])

    return look


def _continued(first: Block, then: Block, dtype: torch.dtype) -> Tensor:
    """0 where a token of `then` reads: its first block, its row up to itself; else -inf [N,1,T2,T1+T2]."""
    width = then.ids.shape[1]
    before = torch.zeros(first.mask.shape, dtype=dtype, device=first.mask.device).masked_fill_(~first.mask, -torch.inf)
    before = _repeated(before, len(then.ids) // len(first.ids))[:, None, None].expand(-1, -1, width, -1)
    causal = torch.full((width, width), -torch.inf, dtype=dtype, device=before.device).triu(1)
    return torch.cat([before, causal.expand(len(then.ids), 1, -1, -1)], dim=-1)


def _repeated(x: Tensor, times: int) -> Tensor:
    """Each of x [N,*] `times` times; unlike `repeat_interleave`, its gradient adds up in the same order every time."""
    return x[:, None].expand(-1, times, *x.shape[1:]).flatten(0, 1)


def padded_rows(packed: Tensor, block: Block, places: Tensor) -> Tensor:
    """[M,heads,size] to [N,heads,T,size], zeros in the padding."""
    n, width = block.ids.shape
    flat = packed.new_zeros(n * width, *packed.shape[1:]).index_copy(0, places, packed)
    return flat.view(n, width, *packed.shape[1:]).transpose(1, 2)


def _attend(layer: Layer, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of q [N,heads,T,size] to k and v [N,groups,T2,size]; mask [.,1,T,T2] is added, none: causal."""
    grouped = q.shape[1] != k.shape[1]
    if grouped and mask is not None and q.is_cuda:  # there, no fused kernel knows both groups and masks
        k, v = (_repeated(x.flatten(0, 1), q.shape[1] // k.shape[1]).unflatten(0, q.shape[:2]) for x in (k, v))
        grouped = False
    return F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=mask,
        is_causal=mask is None,
        dropout_p=layer.parts.dropout,
        scale=layer.parts.scaling,
        enable_gqa=grouped,
    )


# -- which models ------------------------------------------------------------------------------------------------------

_lean: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()


def is_lean(model: PreTrainedModel, length: int = 0) -> bool:
    """Whether this module computes what the model does: by the model's kind, then tried out, once a model.

    length: tokens of the longest text, which may be too long for a window of the model
    """
    if model not in _lean:
        _lean[model] = is_known(model) and _agrees(model)
    return _lean[model] and length <= (layout(model).window or length)


@torch.no_grad()
def _agrees(model: PreTrainedModel) -> bool:
    body: Any = model.base_model
    training, device = model.training, model.device
    ids = (torch.arange(12, device=device) % len(body.get_input_embeddings().weight)).view(2, 6)
    block = Block(ids, torch.ones_like(ids, dtype=torch.bool), torch.arange(6, device=device).expand(2, 6))
    model.eval()
    try:
        ours = read(model, torch.arange(12, device=device), block)
        theirs = body(input_ids=ids, use_cache=False).last_hidden_state.flatten(0, 1)
    except (TypeError, AttributeError, RuntimeError):
        return False
    finally:
        model.train(training)
    apart, size = (ours - theirs).double(), max(1.0, float(theirs.double().std()))
    if model.dtype == torch.float32:
        return bool(apart.abs().max() <= 1e-4 * size)
    return bool(apart.square().mean().sqrt() <= 0.1 * size)  # each way is off by rounding in every layer
