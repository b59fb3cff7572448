"""The three estimators of KL have the right values, expectations and variances, and gradients of the right things."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prefloop.ops.kl import adapt_coefficient, k1, k2, k3

P = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
Q = torch.tensor([0.4, 0.4, 0.2], dtype=torch.float64)
KL = 0.0252671539

logits = st.lists(st.floats(-2, 2), min_size=3, max_size=3)


def test_one_token_gives_the_values_computed_by_hand() -> None:
    logp, ref = torch.tensor(0.5, dtype=torch.float64).log(), torch.tensor(0.4, dtype=torch.float64).log()
    assert float(k1(logp, ref)) == pytest.approx(math.log(1.25), abs=1e-15)
    assert float(k2(logp, ref)) == pytest.approx(0.5 * math.log(1.25) ** 2, abs=1e-15)
    assert float(k3(logp, ref)) == pytest.approx(0.8 - 1 + math.log(1.25), abs=1e-15)


def test_k1_and_k3_are_unbiased_and_k2_is_not() -> None:
    expectation = {f.__name__: float((P * f(P.log(), Q.log())).sum()) for f in (k1, k2, k3)}
    assert expectation["k1"] == pytest.approx(KL, abs=1e-10)
    assert expectation["k3"] == pytest.approx(KL, abs=1e-10)
    assert expectation["k2"] == pytest.approx(0.0248624073, abs=1e-10)


def test_k3_has_far_less_variance_than_k1() -> None:
    def variance(x: torch.Tensor) -> float:
        return float((P * x**2).sum() - (P * x).sum() ** 2)

    assert variance(k1(P.log(), Q.log())) == pytest.approx(0.0490864, abs=1e-7)
    assert variance(k3(P.log(), Q.log())) == pytest.approx(0.000254594, abs=1e-9)


@given(logits, logits)
def test_k3_is_never_negative(a: list[float], b: list[float]) -> None:
    p, q = (torch.log_softmax(torch.tensor(x, dtype=torch.float64), 0) for x in (a, b))
    assert (k3(p, q) >= -1e-15).all()


@settings(max_examples=50)
@given(logits, logits)
def test_k2_as_a_loss_has_the_gradient_of_k1_in_the_reward_and_of_the_exact_kl(a: list[float], b: list[float]) -> None:
    """Both are the reverse KL's on-policy; k3 as a loss is the gradient of the *forward* KL(ref || policy)."""
    theta = torch.tensor(a, dtype=torch.float64, requires_grad=True)
    ref = torch.log_softmax(torch.tensor(b, dtype=torch.float64), 0)
    logp = torch.log_softmax(theta, 0)
    sampled = logp.detach().exp()

    def grad(loss: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(loss, theta, retain_graph=True)[0]

    exact = grad((logp.exp() * (logp - ref)).sum())
    in_reward = grad((sampled * k1(logp, ref).detach() * logp).sum())
    k2_loss, k3_loss = grad((sampled * k2(logp, ref)).sum()), grad((sampled * k3(logp, ref)).sum())
    assert torch.allclose(in_reward, exact, atol=1e-12)
    assert torch.allclose(k2_loss, exact, atol=1e-12)
    assert torch.allclose(k3_loss, grad((ref.exp() * (ref - logp)).sum()), atol=1e-12)


def test_k3_as_a_loss_does_not_have_the_gradient_of_the_reverse_kl() -> None:
    theta = P.log().clone().requires_grad_()
    logp = torch.log_softmax(theta, 0)
    exact = torch.autograd.grad((logp.exp() * (logp - Q.log())).sum(), theta, retain_graph=True)[0]
    k3_loss = torch.autograd.grad((P * k3(logp, Q.log())).sum(), theta)[0]
    assert (exact - k3_loss).abs().max() > 0.005


def test_the_adaptive_coefficient_follows_ziegler_and_clips_its_error() -> None:
    after = [adapt_coefficient(0.2, 12.0, target=6.0, batch=256, horizon=10_000)]
    for kl in (6.0, 3.0):
        after.append(adapt_coefficient(after[-1], kl, target=6.0, batch=256, horizon=10_000))
    assert after == pytest.approx([0.201024, 0.201024, 0.199994757], abs=1e-9)
    assert adapt_coefficient(1.0, 6.6, target=6.0, batch=1, horizon=1) == pytest.approx(1.1)
    assert adapt_coefficient(1.0, 1e9, target=6.0, batch=1, horizon=1) == pytest.approx(1.2)
    assert adapt_coefficient(1.0, -1e9, target=6.0, batch=1, horizon=1) == pytest.approx(0.8)
