"""Sums, means, whitening and explained variance read only what is inside a mask."""

from __future__ import annotations

import math

import pytest
import torch

from prefloop.ops.masked import explained_variance, keep, last_index, masked_mean, masked_sum, whiten

MASK = torch.tensor([[True, True, False, True], [False, True, True, False]])
X = torch.tensor([[1.0, 2.0, math.nan, 4.0], [math.inf, -3.0, 5.0, math.nan]], dtype=torch.float64)


def test_what_lies_outside_the_mask_is_never_read() -> None:
    assert float(masked_sum(X, MASK)) == 9.0
    assert masked_sum(X, MASK, dim=1).tolist() == [7.0, 2.0]
    assert float(masked_mean(X, MASK)) == pytest.approx(1.8)
    assert masked_mean(X, MASK, dim=1).tolist() == pytest.approx([7 / 3, 1.0])
    assert torch.equal(keep(X, MASK)[~MASK], torch.zeros(3, dtype=torch.float64))
    assert torch.isfinite(whiten(X, MASK)).all()


def test_no_gradient_reaches_what_lies_outside_the_mask() -> None:
    x = X.clone().requires_grad_()
    masked_sum(x, MASK).backward()
    assert x.grad is not None and torch.equal(x.grad, MASK.double())


def test_the_mean_of_nothing_is_zero() -> None:
    assert float(masked_mean(X, torch.zeros_like(MASK))) == 0.0


def test_whitened_values_have_mean_zero_and_variance_one_over_the_mask() -> None:
    generator = torch.Generator().manual_seed(0)
    x, mask = (
        torch.randn(7, 11, generator=generator, dtype=torch.float64) * 5 + 3,
        torch.rand(7, 11, generator=generator) < 0.6,
    )
    white = whiten(x, mask)
    assert float(white[mask].mean()) == pytest.approx(0.0, abs=1e-12)
    assert float(white[mask].var(unbiased=False)) == pytest.approx(1.0, abs=1e-6)
    assert torch.equal(white[~mask], torch.zeros_like(white[~mask]))


def test_whitening_without_shift_keeps_the_mean() -> None:
    x, mask = torch.tensor([[1.0, 3.0, 5.0]], dtype=torch.float64), torch.ones(1, 3, dtype=torch.bool)
    white = whiten(x, mask, shift_mean=False)
    assert float(white.mean()) == pytest.approx(3.0, abs=1e-12)
    assert float(white.var(unbiased=False)) == pytest.approx(1.0, abs=1e-6)


def test_whitening_a_constant_gives_zeros_not_infinities() -> None:
    assert whiten(torch.full((2, 3), 4.0), torch.ones(2, 3, dtype=torch.bool)).abs().max() == 0.0


def test_the_last_index_is_that_of_the_last_true_element() -> None:
    assert last_index(torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]]).bool()).tolist() == [1, 1, 2, -1]


def test_a_perfect_critic_explains_all_variance_and_one_that_says_the_mean_none() -> None:
    mask = ~torch.isnan(X) & MASK
    returns = keep(X, mask)
    assert float(explained_variance(X, X, mask)) == pytest.approx(1.0)
    mean = torch.full_like(X, float(masked_mean(X, mask)))
    assert float(explained_variance(mean, returns, mask)) == pytest.approx(0.0, abs=1e-12)
    assert float(explained_variance(-X, X, mask)) == pytest.approx(-3.0)  # It is 1 - Var(2x) / Var(x).


def test_a_constant_error_of_the_critic_is_not_counted_as_unexplained() -> None:
    assert float(explained_variance(X + 7, X, MASK)) == pytest.approx(1.0)


def test_explained_variance_of_constant_returns_is_zero() -> None:
    assert float(explained_variance(X, torch.ones_like(X), MASK)) == 0.0
