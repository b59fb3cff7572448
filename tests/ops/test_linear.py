"""Compiled products, norms and gates are torch's, and so are their gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from prefloop.kernels import native
from prefloop.kernels.linear import linear, product, rms_norm, silu_gate

HOW: dict[str, tuple[Callable[..., Any], Callable[..., Any], list[tuple[int, ...]]]] = {
    "product": (linear, F.linear, [(37, 48), (20, 48)]),
    "product with bias": (linear, F.linear, [(37, 48), (20, 48), (20,)]),
    "product of few rows": (linear, F.linear, [(3, 48), (20, 48), (20,)]),
    "norm": (lambda x, w: rms_norm(x, w, 1e-3), lambda x, w: F.rms_norm(x, (70,), w, 1e-3), [(37, 70), (70,)]),
    "norm of heads": (lambda x, w: rms_norm(x, w, 1e-3), lambda x, w: F.rms_norm(x, (6,), w, 1e-3), [(9, 4, 6), (6,)]),
    "gate": (silu_gate, lambda x: F.silu(x[:, :21]) * x[:, 21:], [(37, 42)]),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("name", HOW)
def test_values_and_gradients_are_those_of_torch_in_double_precision(
    name: str, compiled: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "AVAILABLE", native.AVAILABLE and compiled)
    ours, theirs, shapes = HOW[name]
    draw = torch.Generator().manual_seed(0)
    given = [torch.randn(shape, generator=draw) for shape in shapes]
    found = []
    for how, kind in ((ours, dtype), (theirs, torch.float64)):
        parts = [x.to(dtype).to(kind).requires_grad_() for x in given]
        out = how(*parts)
        outward = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(dtype).to(kind)
        found.append([out.detach(), *torch.autograd.grad(out, parts, outward)])
    bound = {torch.float32: 2e-5, torch.float64: 1e-12, torch.bfloat16: 0.2}[dtype]
    for a, b in zip(*found, strict=True):
        assert b.std() > 0.1 and torch.allclose(a.double(), b, atol=bound)


@pytest.mark.parametrize("rows", [5, 37])
def test_a_product_prepared_once_is_the_product_of_each_part(rows: int) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(rows, 48), torch.randn(20, 48), torch.randn(20)
    for w, b in ((weight, bias), (weight, None), (torch.randn(48, 20).t(), None)):
        whole = product(w, b, rows)
        assert torch.allclose(torch.cat([whole(x[:3]), whole(x[3:])]), F.linear(x, w, b), atol=1e-5)


def test_a_norm_of_large_numbers_stays_exact() -> None:
    x: Tensor = 1e15 * torch.randn(40, 64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(rms_norm(x, torch.ones(64), 1e-6), F.rms_norm(x, (64,)), rtol=1e-5)


def test_what_needs_no_gradient_gets_none() -> None:
    for rows in (3, 40):
        x, weight = torch.randn(rows, 8), torch.randn(5, 8, requires_grad=True)
        linear(x, weight).sum().backward()
        assert x.grad is None and weight.grad is not None
        frozen, moving = torch.randn(5, 8), torch.randn(rows, 8, requires_grad=True)
        linear(moving, frozen).sum().backward()
        assert moving.grad is not None


def test_gates_of_large_numbers_are_shut_or_open() -> None:
    """e^100 is more than a float holds."""
    gate = torch.cat([-torch.logspace(-3, 4, 200), torch.logspace(-3, 4, 200)])
    x = torch.stack([gate, torch.full_like(gate, 2.0)], dim=1).requires_grad_()
    theirs = x.detach().double().requires_grad_()
    ours, wanted = silu_gate(x), F.silu(theirs[:, :1]) * theirs[:, 1:]
    assert torch.allclose(ours.double(), wanted, rtol=2e-5, atol=1e-6)
    # The gradient of a sum is one number, seen as many, so native code needs a copy of it.
    (to_x,), (to_wanted,) = torch.autograd.grad(ours.sum(), x), torch.autograd.grad(wanted.sum(), theirs)
    assert torch.allclose(to_x.double(), to_wanted, rtol=2e-5, atol=1e-6)
