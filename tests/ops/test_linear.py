"""The faster product is the product."""

from __future__ import annotations

import pytest
import torch

from prefloop.ops.linear import laid_out, linear


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_it_is_what_torch_says(dtype: torch.dtype, bias: bool) -> None:
    torch.manual_seed(0)
    x, weight, shift = torch.randn(37, 48), torch.randn(20, 48), torch.randn(20) if bias else None
    exact = torch.nn.functional.linear(x.double(), weight.double(), None if shift is None else shift.double())
    x, weight, shift = x.to(dtype), weight.to(dtype), None if shift is None else shift.to(dtype)
    bound = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 0.2}[dtype]
    if dtype == torch.float64:
        exact = torch.nn.functional.linear(x, weight, shift)
    for way in (weight, laid_out(weight, 37), laid_out(weight, 1)):
        with torch.no_grad():
            assert torch.allclose(linear(x, way, shift).double(), exact, atol=bound)


@pytest.mark.parametrize("bias", [True, False])
def test_gradients_are_autograds(bias: bool) -> None:
    torch.manual_seed(0)
    x, weight, shift = torch.randn(37, 48), torch.randn(20, 48), torch.randn(20)
    outward = torch.randn(37, 20)
    found = []
    for how, dtype in ((linear, torch.float32), (torch.nn.functional.linear, torch.float64)):
        parts = [t.detach().clone().to(dtype).requires_grad_() for t in ((x, weight, shift) if bias else (x, weight))]
        how(*parts).backward(outward.to(dtype))
        found.append([part.grad for part in parts])
    for ours, theirs in zip(*found, strict=True):
        assert ours is not None and theirs is not None
        assert torch.allclose(ours.double(), theirs, atol=1e-4)


def test_what_needs_no_gradient_gets_none() -> None:
    x, weight = torch.randn(3, 8), torch.randn(5, 8, requires_grad=True)
    linear(x, weight).sum().backward()
    assert x.grad is None and weight.grad is not None
    frozen, moving = torch.randn(5, 8), torch.randn(3, 8, requires_grad=True)
    linear(moving, frozen).sum().backward()
    assert moving.grad is not None
