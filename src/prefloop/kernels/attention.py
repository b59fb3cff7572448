"""Causal attention of packed tokens, forward and backward, with no padding computed.

The scores never exist all at once: the gradient computes them again, from the logarithm of their sum (Dao 2022). On a
CPU in float32, `learning.c` computes it, and answers read their prompt where it stands. On a GPU in low precision,
torch's flash attention computes it, for which each answer's prompt is put before it. `can_pack` says where this works;
elsewhere, `packed` pads.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prefloop.kernels import native
from prefloop.kernels.linear import rotary
from prefloop.kernels.native import address, padded

Rope = tuple[Tensor, Tensor]  # cosines and sines of each token [M,1,head_dim/2]


@dataclass(frozen=True)
class Heads:
    """Says how a token's A vectors stand: `query` queries, then `kv` keys, then `kv` values."""

    query: int
    kv: int

    @property
    def all(self) -> int:
        return self.query + 2 * self.kv


@dataclass(frozen=True)
class Plan:
    """Says where the rows of a batch are. It is made once, for all layers."""

    heads: Heads
    lists: int
    times: int  # how many rows continue each list's prompt
    start: Tensor  # [R] the start of each row's tokens, prompts first
    length: Tensor  # [R] how many tokens each row has
    place: Tensor  # [R] where each row would start if rows were padded as native code pads them
    room: int  # where the last row would end
    reach: Reach | None = None  # set on a GPU only


@dataclass(frozen=True)
class Reach:
    """Lists each row's tokens after those of its prompt, as flash attention takes keys and values."""

    which: Tensor  # [L] indices of tokens
    prompts: Tensor  # [P,1+times] the places in `which` of each prompt token, for its own row and for `times` others
    answers: Tensor  # the places in `which` of each token of an answer
    starts: Tensor  # [R+1] int32 the starts of rows among the tokens (here) and among `which` (below), and their ends
    key_starts: Tensor
    longest: int
    longest_keys: int


def can_pack(x: Tensor, size: int, dropout: float = 0.0) -> bool:
    """Return whether `attention` can compute with numbers like x, in heads of `size`."""
    if x.is_cuda:
        return not dropout and x.dtype in (torch.bfloat16, torch.float16) and size % 8 == 0 and size <= 256
    return native.fits(x) and size <= native.WIDEST


def plan(heads: Heads, prompts: Tensor, answers: Tensor | None = None) -> Plan:
    """Plan rows that are packed one after the other: `prompts` [G] tokens each, then `answers` [N] tokens each.

    Each prompt is continued by N / G of the answers, which stand together. Some rows may have no token.
    """
    length = prompts if answers is None else torch.cat([prompts, answers])
    room = padded(length)
    times = 0 if answers is None else len(answers) // len(prompts)
    reach = _reach(prompts, length, times) if length.is_cuda else None
    start, place = length.cumsum(0) - length, room.cumsum(0) - room
    return Plan(heads, len(prompts), times, start, length, place, int(room.sum()), reach)


def _reach(prompts: Tensor, length: Tensor, times: int) -> Reach:
    device, lists = length.device, len(prompts)
    none, lists_at = torch.zeros_like(prompts), torch.arange(lists, device=device)
    before = torch.cat([none, prompts.repeat_interleave(times)])  # the number of tokens of each row's prompt
    list_of = torch.cat([lists_at, lists_at.repeat_interleave(times)])
    total = before + length
    start, key_start = length.cumsum(0) - length, total.cumsum(0) - total
    row = torch.repeat_interleave(total)  # the row of each key
    at = torch.arange(len(row), device=device) - key_start[row]
    which = torch.where(at < before[row], start[list_of[row]] + at, start[row] + at - before[row])
    of = torch.repeat_interleave(prompts)  # the list of each prompt token; `within` is its place there
    within = torch.arange(len(of), device=device) - start[of]
    rows = torch.cat([of[:, None], lists + of[:, None] * times + torch.arange(times, device=device)], dim=1)
    answers = (at >= before[row]) & (row >= lists)

    def ends(starts: Tensor, lengths: Tensor) -> Tensor:
        return torch.cat([starts, (starts[-1:] + lengths[-1:])]).int()

    return Reach(
        which,
        key_start[rows] + within[:, None],
        answers.nonzero().squeeze(1),
        ends(start, length),
        ends(key_start, total),
        int(length.max()),
        int(total.max()),
    )


def attention(vectors: Tensor, rope: Rope, plan: Plan, scaling: float, dropout: float = 0.0) -> Tensor:
    """Return what each token reads from its prompt and from its row, up to itself.

    vectors: [M,A,head_dim] queries, keys and values of the packed tokens; queries and keys are not yet rotated
    rope:    rotary positions (Su 2021), in the half-split layout of Hugging Face
    dropout: share of the weights that are left out, by torch's random numbers
    returns: [M,query*head_dim]
    """
    if plan.reach is not None:
        return _flash(vectors, rope, plan.heads, plan.reach, scaling)
    found: Tensor = _Attention.apply(vectors, *rope, plan, scaling, dropout)  # type: ignore[no-untyped-call]
    return found


def _flash(vectors: Tensor, rope: Rope, heads: Heads, reach: Reach, scaling: float) -> Tensor:
    q, both = rotary(vectors, *rope, heads.query + heads.kv).tensor_split([heads.query], dim=1)
    k, v = _Reached.apply(both, reach).tensor_split([heads.kv], dim=1)  # type: ignore[no-untyped-call]
    return causal(q, k, v, reach, scaling).flatten(1)


def causal(q: Tensor, k: Tensor, v: Tensor, reach: Reach, scaling: float) -> Tensor:
    """Return causal attention [M,query,head_dim].

    A row's last query reads all of its keys, the one before reads all but the last, and so on. torch's `varlen_attn`
    does the same, but it came late (2.10), and its arguments have changed since.
    """
    starts = reach.starts, reach.key_starts, reach.longest, reach.longest_keys
    found: Tensor = torch.ops.aten._flash_attention_forward(q, k, v, *starts, 0.0, True, False, scale=scaling)[0]
    return found


class _Reached(torch.autograd.Function):
    """Selects keys and values [M,*] of `reach.which` [L,*].

    The gradients that come back to a prompt are added up in the same order every time.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, reach: Reach) -> Tensor:
        ctx.reach = reach
        return x.index_select(0, reach.which)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        reach, gradient = ctx.reach, gradient.contiguous()
        prompts = gradient.index_select(0, reach.prompts.flatten()).unflatten(0, reach.prompts.shape).sum(1)
        return torch.cat([prompts, gradient.index_select(0, reach.answers)]), None


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, vectors: Tensor, cos: Tensor, sin: Tensor, plan: Plan, scaling: float, dropout: float
    ) -> Tensor:
        rotated = vectors.clone(memory_format=torch.contiguous_format)
        cos, sin = cos.contiguous(), sin.contiguous()
        read = rotated.new_empty(len(rotated), plan.heads.query * rotated.shape[2])
        logs = rotated.new_empty(len(rotated), plan.heads.query)
        how = scaling, dropout, int(torch.randint(1 << 32, ())) if dropout else 0
        rows, space = _rows(rotated, cos, sin, plan, how), _space(rotated, plan)
        native.call("attention", ctypes.addressof(rows), *map(address, (rotated, space, read, logs)))
        ctx.save_for_backward(rotated, cos, sin, read, logs)
        ctx.plan, ctx.how = plan, how
        return read

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rotated, cos, sin, read, logs = ctx.saved_tensors
        found = torch.zeros_like(rotated)
        rows, space = _rows(rotated, cos, sin, ctx.plan, ctx.how), _space(rotated, ctx.plan)
        given = rotated, space, read, logs, gradient.contiguous(), found
        native.call("attention_back", ctypes.addressof(rows), *map(address, given))
        return found, None, None, None, None, None


def _rows(rotated: Tensor, cos: Tensor, sin: Tensor, plan: Plan, how: tuple[float, float, int]) -> native.PackedRows:
    shape = len(rotated), plan.lists, plan.times, plan.heads.query, plan.heads.kv, rotated.shape[2]
    return native.PackedRows(*shape, *map(address, (plan.start, plan.length, plan.place, cos, sin)), *how)


def _space(rotated: Tensor, plan: Plan) -> Tensor:
    return rotated.new_empty(2 * plan.heads.kv * rotated.shape[2] * plan.room)
