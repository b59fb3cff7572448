"""Causal attention of packed tokens on a CPU, forward and backward, with next to no padding computed.

Rows of like length are put side by side (a tile), gathered straight from the packed tokens. Answers read their prompt
where it stands. Keys after a block of queries are not looked at. What is kept for the gradient is the input and, unless
there are many, the attention weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

ALIKE = 0.75  # rows of at least this share of the longest one's tokens are put into one tile,
FEW = 256  # and shorter ones while it has fewer tokens than these
QUERIES = 128  # of a row at one time: they read nothing after the last of them
KEPT = 1 << 23  # attention weights of a layer; more are computed again for the gradient

Turn = tuple[Tensor, Tensor]  # cosines and sines of each token [M,1,size/2]


@dataclass(frozen=True)
class Heads:
    """How a token's A vectors stand: `asking` queries, then `groups` keys, then `groups` values."""

    asking: int
    groups: int

    @property
    def all(self) -> int:
        return self.asking + 2 * self.groups


@dataclass(frozen=True)
class Tile:
    """n rows of up to T tokens each, which may go on from a prompt of up to P tokens."""

    q: Tensor  # where the queries stand among all vectors [n,groups,asking/groups,T]
    read: Tensor  # the same among what is read, of which a token has `asking` vectors
    k: Tensor  # where the keys stand, the prompt's first [n,groups,P+T]; values `groups` further on
    before: int  # P
    hidden: Tensor | None  # -inf at the padding of prompts, else 0 [n,1,1,P]; none where there is no padding
    real: Tensor | None  # 0 at the padding of rows, else 1 [n,1,1,T,1]; none where there is no padding
    lists: Tensor  # which prompt each row goes on from, or is [n]

    def blocks(self) -> Iterator[slice]:
        """Of queries; the last one, which reads all keys, comes first."""
        width = self.q.shape[-1]
        return (slice(start, min(width, start + QUERIES)) for start in reversed(range(0, width, QUERIES)))


@dataclass(frozen=True)
class Plan:
    """The tiles of a batch: made once, for all layers. Those of rows that go on from a prompt come first."""

    heads: Heads
    tiles: Sequence[Tile]
    prompts: tuple[int, int]  # how many, and tokens of the longest
    back: Tensor  # where each vector [M,A] stands among the tiles' queries, then all keys, then all values
    asked: Tensor  # the same of queries alone, in one piece


def plan(heads: Heads, prompts: Tensor, answers: Tensor | None = None) -> Plan:
    """For rows packed one after the other: `prompts` [G] tokens each, then `answers` [N] tokens each.

    Each prompt is gone on from by N / G of the answers, which stand together. Some may have no token.
    """
    device, every = prompts.device, torch.arange(len(prompts), device=prompts.device)
    starts = prompts.cumsum(0) - prompts
    rows: list[tuple[Tensor, Tensor, Tensor, bool]] = []  # of each tile: starts, lengths, prompts, going on from them
    if answers is not None:
        owner = every.repeat_interleave(len(answers) // len(prompts))
        later = prompts.sum() + answers.cumsum(0) - answers
        rows += [(later[some], answers[some], owner[some], True) for some in _alike(answers)]
    rows += [(starts[some], prompts[some], every[some], False) for some in _alike(prompts)]
    tokens = int(prompts.sum() + (answers.sum() if answers is not None else 0))
    back = torch.empty(tokens, heads.all, dtype=torch.long, device=device)
    of_q, of_k = back[:, : heads.asking], back[:, heads.asking : heads.asking + heads.groups]
    head = torch.arange(heads.asking, device=device).view(heads.groups, -1, 1)
    group = torch.arange(heads.groups, device=device)[:, None]
    tiles: list[Tile] = []
    queries = keys = 0
    for first, length, lists, goes_on in rows:
        within = torch.arange(int(length.max()), device=device)
        real = within < length[:, None]
        own = torch.where(real, first[:, None] + within, first[:, None])  # [n,T]
        places, before, hidden = own, 0, None
        if goes_on:
            before = int(prompts[lists].max())
            at = torch.arange(before, device=device)
            shown = at < prompts[lists][:, None]  # [n,P]
            places = torch.cat([starts[lists][:, None] + torch.where(shown, at, 0), own], dim=1)
            if not bool(shown.all()):
                hidden = torch.zeros_like(shown, dtype=torch.float32).masked_fill_(~shown, -torch.inf)[:, None, None]
        q = own[:, None, None] * heads.all + head
        k = places[:, None] * heads.all + heads.asking + group
        at_q, at_k = (torch.arange(x.numel(), device=device).view(x.shape) for x in (q, k))
        of_q[own[real]] = queries + at_q.flatten(1, 2).transpose(1, 2)[real]
        of_k[own[real]] = keys + at_k[..., before:].transpose(1, 2)[real]
        padded = None if bool(real.all()) else real[:, None, None, :, None]
        tiles.append(Tile(q, own[:, None, None] * heads.asking + head, k, before, hidden, padded, lists))
        queries, keys = queries + q.numel(), keys + k.numel()
    of_k += queries
    back[:, heads.asking + heads.groups :] = of_k + keys
    return Plan(heads, tiles, (len(prompts), int(prompts.max())), back, of_q.contiguous())


def _alike(lengths: Tensor) -> list[Tensor]:
    """Rows [N] in tiles of like length, the longest first; those without a token in none."""
    order = torch.argsort(lengths, descending=True, stable=True)
    sizes = [size for size in lengths[order].tolist() if size]
    ends = [0]
    for at, size in enumerate(sizes):
        longest = sizes[ends[-1]]
        if size < ALIKE * longest and (at - ends[-1]) * longest >= FEW:
            ends.append(at)
    return [order[start:end] for start, end in zip(ends, [*ends[1:], len(sizes)], strict=True) if end > start]


def attention(vectors: Tensor, turn: Turn, plan: Plan, scaling: float) -> Tensor:
    """What each token reads from its prompt and from its row, up to itself.

    vectors: [M,A,size] queries, keys and values of the packed tokens; queries and keys are not yet turned
    turn:    rotary positions (Su 2021), in the half-split layout of Hugging Face
    returns: [M,asking*size]
    """
    found: Tensor = _Attention.apply(vectors, *turn, plan, scaling)  # type: ignore[no-untyped-call]
    return found


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor, cos: Tensor, sin: Tensor, plan: Plan, scaling: float) -> Tensor:
        turned = vectors.clone(memory_format=torch.contiguous_format)
        _turn(turned[:, : -plan.heads.groups], cos, sin)
        read = vectors.new_empty(sum(tile.q.numel() for tile in plan.tiles), vectors.shape[-1])
        few = sum(tile.q.numel() * tile.k.shape[2] for tile in plan.tiles) <= KEPT
        weights: list[Tensor] = []
        for tile, out in zip(plan.tiles, _split(read, [tile.q for tile in plan.tiles]), strict=True):
            q, k, v = _gathered(turned, tile, plan.heads, scaling)
            for block in tile.blocks():
                weight = _weigh(q, k, tile, block)
                out[:, :, :, block] = torch.matmul(weight, _upto(v, tile, block)).unflatten(2, (q.shape[2], -1))
                if few and ctx.needs_input_grad[0]:
                    weights.append(weight)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(turned, cos, sin, *weights)
        ctx.plan, ctx.scaling = plan, scaling
        return read.index_select(0, plan.asked.view(-1)).view(len(vectors), -1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        turned, cos, sin, *weights = ctx.saved_tensors
        plan, heads, size = ctx.plan, ctx.plan.heads, turned.shape[-1]
        gradient = gradient.reshape(-1, size)
        shapes = [tile.q for tile in plan.tiles] + 2 * [tile.k for tile in plan.tiles]
        result = turned.new_empty(sum(shape.numel() for shape in shapes), size)
        parts = _split(result, shapes)
        count = len(plan.tiles)
        shared = turned.new_zeros(2, plan.prompts[0], heads.groups, plan.prompts[1], size)  # to prompts, by answers
        saved = iter(weights)
        for tile, to_q, to_k, to_v in zip(plan.tiles, parts, parts[count:], parts[2 * count :], strict=False):
            q, k, v = _gathered(turned, tile, heads, ctx.scaling)
            came = gradient.index_select(0, tile.read.view(-1)).view(q.shape)
            if tile.real is not None:
                came *= tile.real
            for block in tile.blocks():
                weight = next(saved, None)
                weight = _weigh(q, k, tile, block) if weight is None else weight
                some, asking = came[:, :, :, block].flatten(2, 3), q[:, :, :, block].flatten(2, 3)
                slope = torch.matmul(some, _upto(v, tile, block).mT)
                slope = torch._softmax_backward_data(slope, weight, -1, weight.dtype)
                to_q[:, :, :, block] = torch.matmul(slope, _upto(k, tile, block)).unflatten(2, (q.shape[2], -1))
                for to, by in ((to_k, torch.matmul(slope.mT, asking)), (to_v, torch.matmul(weight.mT, some))):
                    if block.stop == q.shape[3]:
                        to.copy_(by)
                    else:
                        _upto(to, tile, block).add_(by)
            for to, by in zip(shared, (to_k, to_v), strict=True):
                if tile.before:
                    to[:, :, : tile.before].index_add_(0, tile.lists, by[:, :, : tile.before])
                else:
                    by += to[tile.lists, :, : by.shape[2]]
        result[: sum(tile.q.numel() for tile in plan.tiles)] *= ctx.scaling
        found = result.index_select(0, plan.back.view(-1)).view(turned.shape)
        _turn(found[:, : -heads.groups], cos, sin, back=True)
        return found, None, None, None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor, back: bool = False) -> None:
    """x [M,heads,size] by its positions, in place."""
    first, second = x.chunk(2, dim=-1)
    before = first.clone()
    sign = -1.0 if back else 1.0
    first.mul_(cos).addcmul_(second, sin, value=-sign)
    second.mul_(cos).addcmul_(before, sin, value=sign)


def _split(x: Tensor, shapes: Sequence[Tensor]) -> list[Tensor]:
    """[sum,size] to [*shape,size] each."""
    return [part.view(*s.shape, -1) for part, s in zip(x.split([s.numel() for s in shapes]), shapes, strict=True)]


def _gathered(turned: Tensor, tile: Tile, heads: Heads, scaling: float) -> tuple[Tensor, Tensor, Tensor]:
    """Scaled queries [n,groups,r,T,size], keys and values [n,groups,P+T,size] of a tile."""
    flat = turned.view(-1, turned.shape[-1])
    q = flat.index_select(0, tile.q.view(-1)).view(*tile.q.shape, -1)
    k, v = (flat.index_select(0, at.view(-1)).view(*at.shape, -1) for at in (tile.k, tile.k + heads.groups))
    return q.mul_(scaling), k, v


def _upto(x: Tensor, tile: Tile, block: slice) -> Tensor:
    """Keys or values [n,groups,P+T,size] up to the last query of a block."""
    return x[:, :, : tile.before + block.stop]


def _weigh(q: Tensor, k: Tensor, tile: Tile, block: slice) -> Tensor:
    """How much each query of a block reads from each key up to the last of them [n,groups,r*B,P+stop]."""
    asking = q[:, :, :, block]
    scores = torch.matmul(asking.flatten(2, 3), _upto(k, tile, block).mT)
    if tile.hidden is not None:
        scores[..., : tile.before] += tile.hidden
    wide = block.stop - block.start
    later = torch.full((wide, wide), -torch.inf, dtype=q.dtype, device=q.device).triu(1)
    scores.view(*asking.shape[:4], -1)[..., tile.before + block.start :] += later
    return scores.softmax(-1)
