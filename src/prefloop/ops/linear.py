"""`linear` on a CPU by oneDNN, which is faster there than torch's default in float32, above all for few rows.

For few rows it is the laying out of weights that counts: torch does it anew in every call, `laid_out` once. The
operators are those that torch's own compiler emits; where a build of torch has none, and on other devices and types,
this is `torch.nn.functional.linear`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_ops: Any = getattr(torch.ops, "mkldnn", None)
AVAILABLE = torch.backends.mkldnn.is_available() and all(
    hasattr(_ops, name) for name in ("_linear_pointwise", "_reorder_linear_weight", "_is_mkldnn_bf16_supported")
)
# oneDNN refuses bfloat16 on processors without AVX-512 or its like
TYPES = {torch.float32, torch.bfloat16} if AVAILABLE and _ops._is_mkldnn_bf16_supported() else {torch.float32}


def laid_out(weight: Tensor, rows: int) -> Tensor:
    """A weight [out,in] as `linear` reads it fastest for about `rows` rows: a copy that nothing else can use."""
    if not (AVAILABLE and _fits(weight)):
        return weight
    found: Tensor = _ops._reorder_linear_weight(weight.detach(), rows)
    return found


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [N,in] to [N,out]; `weight` as it is, or as `laid_out` gave it (then without gradient)."""
    if not (AVAILABLE and (weight.is_mkldnn or _fits(weight))):
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled() and not weight.is_mkldnn:
        found: Tensor = _Linear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return found
    return _product(x, weight, bias)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    found: Tensor = _ops._linear_pointwise(x, weight, bias, "none", [], "")
    return found


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            _product(gradient.contiguous(), weight.t().contiguous(), None) if needs_x else None,
            gradient.t() @ x if needs_weight else None,
            gradient.sum(0) if needs_bias else None,
        )


def _fits(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype in TYPES
