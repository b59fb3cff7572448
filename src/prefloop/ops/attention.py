"""Causal attention of packed tokens on a CPU in float32, forward and backward, with no padding computed.

Answers read their prompt where it stands. Scores are never all there at once: they are computed again for the gradient,
from the logarithm of their sum (Dao 2022). In `learning.c`; where that was not compiled, `lean` asks torch.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prefloop.ops import native
from prefloop.ops.native import address, padded

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
class Plan:
    """Where the rows of a batch are: made once, for all layers."""

    heads: Heads
    lists: int
    times: int  # rows that go on from each list's prompt
    start: Tensor  # of each row's tokens [R], prompts first
    length: Tensor  # [R]
    place: Tensor  # where it would start, were rows padded as native code pads them [R]
    room: int  # and where they would end


def plan(heads: Heads, prompts: Tensor, answers: Tensor | None = None) -> Plan:
    """For rows packed one after the other: `prompts` [G] tokens each, then `answers` [N] tokens each.

    Each prompt is gone on from by N / G of the answers, which stand together. Some may have no token.
    """
    length = prompts if answers is None else torch.cat([prompts, answers])
    room = padded(length)
    times = 0 if answers is None else len(answers) // len(prompts)
    return Plan(heads, len(prompts), times, length.cumsum(0) - length, length, room.cumsum(0) - room, int(room.sum()))


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
        cos, sin = cos.contiguous(), sin.contiguous()
        read = turned.new_empty(len(turned), plan.heads.asking * turned.shape[2])
        logs = turned.new_empty(len(turned), plan.heads.asking)
        rows, space = _rows(turned, cos, sin, plan, scaling), _space(turned, plan)
        native.call("attention", ctypes.addressof(rows), *map(address, (turned, space, read, logs)))
        ctx.save_for_backward(turned, cos, sin, read, logs)
        ctx.plan, ctx.scaling = plan, scaling
        return read

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        turned, cos, sin, read, logs = ctx.saved_tensors
        found = torch.zeros_like(turned)
        rows, space = _rows(turned, cos, sin, ctx.plan, ctx.scaling), _space(turned, ctx.plan)
        given = turned, space, read, logs, gradient.contiguous(), found
        native.call("attention_back", ctypes.addressof(rows), *map(address, given))
        return found, None, None, None, None


def _rows(turned: Tensor, cos: Tensor, sin: Tensor, plan: Plan, scaling: float) -> native.Rows:
    shape = len(turned), plan.lists, plan.times, plan.heads.asking, plan.heads.groups, turned.shape[2]
    return native.Rows(*shape, *map(address, (plan.start, plan.length, plan.place, cos, sin)), scaling)


def _space(turned: Tensor, plan: Plan) -> Tensor:
    return turned.new_empty(2 * plan.heads.groups * turned.shape[2] * plan.room)
