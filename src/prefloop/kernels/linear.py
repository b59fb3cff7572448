"""Computes `linear` and what stands between matrices, forward and backward.

On a CPU in float32 compiled code computes it, on a GPU Triton. Elsewhere, and where there is neither, torch does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from prefloop.kernels import gpu, native
from prefloop.kernels.native import Panels, address

WORTH = 32  # From so many rows on, laying a matrix out anew pays.
LARGEST = 1 << 26  # Up to so many elements, a copy is worth its memory.


def product(weight: Tensor, bias: Tensor | None, rows: int) -> Callable[[Tensor], Tensor]:
    """Return a function from x [*,in] to [*,out] by a weight [out,in], for `rows` rows in all; without a gradient."""
    if not native.fits(weight) or rows < WORTH or weight.numel() > LARGEST:
        return lambda x: F.linear(x, weight, bias)
    panels = Panels(weight, bias)
    return lambda x: native.times(x, panels)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, onto: Tensor | None = None) -> Tensor:
    """Return x [N,in] times the weight, [N,out], added to `onto` [N,out].

    `onto` may be written over where no gradient is wanted.
    """
    if onto is not None and x.is_cuda and bias is None:
        return torch.addmm(onto, x, weight.t()) if torch.is_grad_enabled() else onto.addmm_(x, weight.t())
    if onto is not None:
        return linear(x, weight, bias).add_(onto)
    if not (native.fits(x) and native.fits(weight)) or len(x) < WORTH or weight.numel() > LARGEST:
        return F.linear(x, weight, bias)
    found: Tensor = _Linear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return found


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return native.times(x, Panels(weight, bias))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            native.times(gradient, Panels(weight.t())) if needs_x else None,
            gradient.t() @ x if needs_weight else None,
            gradient.sum(0) if needs_bias else None,
        )


def linear_made(x: Tensor, make: Callable[[], Tensor], bias: Tensor | None = None) -> Tensor:
    """Return x [N,in] times a frozen weight [out,in] that nothing keeps: the backward pass makes it once more."""
    found: Tensor = _LinearMade.apply(x, make, bias)  # type: ignore[no-untyped-call]
    return found


class _LinearMade(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, make: Callable[[], Tensor], bias: Tensor | None) -> Tensor:
        ctx.make = make
        return linear(x, make(), bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return linear(gradient, ctx.make().t()), None, None


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Return x [*,H] divided by its root mean square, times a weight (Zhang 2019)."""
    if not (native.fits(x) and native.fits(weight)):
        return F.rms_norm(x, x.shape[-1:], weight, epsilon)
    found: Tensor = _Norm.apply(x, weight, epsilon)  # type: ignore[no-untyped-call]
    return found


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        x, weight = x.contiguous(), weight.contiguous()
        out, by = torch.empty_like(x), x.new_empty(x.shape[:-1])
        native.call("norm", address(x), address(weight), epsilon, address(out), address(by), by.numel(), len(weight))
        ctx.save_for_backward(x, weight, by)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, by = ctx.saved_tensors
        to_x, to_weight = torch.empty_like(x), torch.zeros_like(weight)
        given = x, weight, by, gradient.contiguous(), to_x, to_weight
        native.call("norm_back", *map(address, given), by.numel(), len(weight))
        return to_x, to_weight, None


def silu_gate(x: Tensor) -> Tensor:
    """Return silu(gate) * up [N,H], of gate and up side by side [N,2H] (Shazeer 2020)."""
    if not (native.fits(x) or gpu.fits(x)):
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate) * up
    found: Tensor = _Gate.apply(x)  # type: ignore[no-untyped-call]
    return found


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x)
        if gpu.fits(x):
            return gpu.gate(x)
        out = x.new_empty(len(x), x.shape[1] // 2)
        native.call("gate", address(x), address(out), *out.shape)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        if gpu.fits(x):
            return gpu.gate_back(x, gradient)
        # The variable keeps the copy alive, because a copy that nobody holds is freed at once.
        gradient, found = gradient.contiguous(), torch.empty_like(x)
        native.call("gate_back", address(x), address(gradient), address(found), *gradient.shape)
        return found


def rotary(vectors: Tensor, cos: Tensor, sin: Tensor, rotated: int) -> Tensor:
    """Apply rotary positions (Su 2021), in the half-split layout of Hugging Face, to a token's first `rotated` vectors.

    vectors: [M,A,head_dim]; the others stay as they are;  cos, sin: [M,1,head_dim/2]
    """
    if gpu.fits(vectors):
        found: Tensor = _Rotary.apply(vectors, cos, sin, rotated)  # type: ignore[no-untyped-call]
        return found
    some, rest = vectors.tensor_split([rotated], dim=1)
    first, second = some.chunk(2, dim=-1)
    return torch.cat([torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1), rest], dim=1)


class _Rotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor, cos: Tensor, sin: Tensor, rotated: int) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.rotated = rotated
        return gpu.rotary(vectors, cos, sin, rotated)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return gpu.rotary(gradient, cos, sin, ctx.rotated, back=True), None, None, None
