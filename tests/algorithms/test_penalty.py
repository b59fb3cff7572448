"""The price on the KL and the entropy bonus have the gradients that they are for, and the controllers keep bounds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prefloop.algorithms.penalty import KlPenalty
from prefloop.algorithms.registry import make
from prefloop.batch import CreditedBatch
from prefloop.errors import ConfigError

logits = st.lists(st.floats(-2, 2), min_size=3, max_size=3)


def every_symbol(old: Tensor, ref: Tensor) -> CreditedBatch:
    """Return each of three symbols once, as an answer of one token. Weighted by its probability it is an expectation.

    old, ref: [3] log-probabilities
    """
    column, action = torch.zeros(3, dtype=torch.double), torch.tensor([[False, True]] * 3)
    blank = torch.full((3,), torch.nan, dtype=torch.double)
    said = {name: torch.stack([blank, logp], 1) for name, logp in (("old_logp", old), ("ref_logp", ref))}
    return CreditedBatch(
        torch.tensor([[0, 0], [0, 1], [0, 2]]),
        torch.ones_like(action),
        action,
        sampler_logp=said["old_logp"],
        reward=column,
        group=torch.zeros(3, dtype=torch.long),
        ended=torch.ones(3, dtype=torch.bool),
        value=None,
        advantage=torch.zeros(3, 2, dtype=torch.double),
        returns=None,
        **said,
    )


def gradient(penalty: KlPenalty, theta: Tensor, old: Tensor, ref: Tensor) -> Tensor:
    """Return the gradient of what the penalty adds to the loss, over symbols that the policy `old` has sampled."""
    batch = every_symbol(old, ref)
    logp = torch.stack([torch.zeros(3, dtype=torch.double), torch.log_softmax(theta, 0)], 1)
    if penalty.kl_in == "reward" and penalty.kl:
        weights = old.exp()[:, None] * torch.exp(logp - torch.nan_to_num(batch.old_logp))
        loss = -(penalty.token_penalty(batch) * weights)[:, 1].sum()
    else:
        added = penalty.loss_penalty(logp, batch)
        assert added is not None and not added[:, 0].any()
        loss = (added[:, 1] * old.exp()).sum()
    return torch.autograd.grad(loss, theta)[0]


def policies(*given: list[float]) -> list[Tensor]:
    return [torch.log_softmax(torch.tensor(x, dtype=torch.double), 0) for x in given]


def kl_gradient(theta: Tensor, ref: Tensor) -> Tensor:
    logp = torch.log_softmax(theta, 0)
    return torch.autograd.grad((logp.exp() * (logp - ref)).sum(), theta)[0]


RIGHT: list[dict[str, Any]] = [
    {"kl_in": "reward"},
    {"kl_in": "loss", "kl_estimator": "k2", "kl_unbiased": False},
    {"kl_in": "loss", "kl_estimator": "k2"},
    {"kl_in": "loss", "kl_estimator": "k1"},
    {"kl_in": "loss", "kl_estimator": "k3"},
]


@settings(max_examples=25, deadline=None)
@given(logits, logits)
def test_on_policy_the_reward_with_k1_and_the_loss_with_k2_or_unbiased_k3_follow_the_reverse_kl(
    a: list[float], b: list[float]
) -> None:
    theta, (old, ref) = torch.tensor(a, dtype=torch.double, requires_grad=True), policies(a, b)
    exact = 0.3 * kl_gradient(theta, ref)
    for options in RIGHT:
        assert torch.allclose(gradient(KlPenalty(kl=0.3, **options), theta, old, ref), exact, atol=1e-12), options


@settings(max_examples=25, deadline=None)
@given(logits, logits, logits)
def test_off_policy_the_ratio_keeps_the_gradient_of_unbiased_estimators_right(
    a: list[float], b: list[float], c: list[float]
) -> None:
    theta, (old, ref) = torch.tensor(a, dtype=torch.double, requires_grad=True), policies(c, b)
    for name in ("k1", "k2", "k3"):
        found = gradient(KlPenalty(kl=0.3, kl_in="loss", kl_estimator=name), theta, old, ref)  # type: ignore[arg-type]
        assert torch.allclose(found, 0.3 * kl_gradient(theta, ref), atol=1e-10), name


def test_the_k3_of_the_paper_follows_another_kl_and_k1_without_a_ratio_follows_none() -> None:
    a, b = [0.5, 0.3, -0.2], [-1.0, 0.4, 0.2]
    theta, (old, ref) = torch.tensor(a, dtype=torch.double, requires_grad=True), policies(a, b)
    exact = kl_gradient(theta, ref)
    k3 = gradient(KlPenalty(kl=1.0, kl_in="loss", kl_unbiased=False), theta, old, ref)
    k1 = gradient(KlPenalty(kl=1.0, kl_in="loss", kl_estimator="k1", kl_unbiased=False), theta, old, ref)
    assert (k3 - exact).abs().max() > 0.05 and torch.allclose(k1, torch.zeros(3, dtype=torch.double), atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(logits, logits)
def test_the_entropy_bonus_follows_the_entropy_on_policy_and_off_it(a: list[float], c: list[float]) -> None:
    theta = torch.tensor(a, dtype=torch.double, requires_grad=True)
    logp = torch.log_softmax(theta, 0)
    exact = torch.autograd.grad(0.2 * (logp.exp() * logp).sum(), theta)[0]
    for sampled_by in (a, c):
        (old,) = policies(sampled_by)
        found = gradient(KlPenalty(kl=0.0, entropy_coef=0.2), theta, old, old)
        assert torch.allclose(found, exact, atol=1e-10)


def test_an_entropy_bonus_keeps_a_bandit_from_settling_on_one_arm() -> None:
    """The optimum of reward + c * entropy is softmax(r / c): here 0.731 of the better arm."""
    from test_bandit import OPTIMUM, online

    found = online("rloo", {"kl": 0.0, "entropy_coef": 0.5})
    assert found.tolist() == pytest.approx(OPTIMUM, abs=0.02), "with a uniform reference the KL is minus the entropy"


def test_a_steered_coefficient_follows_ziegler_and_stays_within_its_bounds() -> None:
    steered, seen = KlPenalty(kl=0.2, kl_target=6.0), []
    for kl in (12.0, 6.0, 3.0):
        steered = steered.adapt({"kl": kl, "sequences": 256.0})
        seen.append(steered.kl)
    assert seen == pytest.approx([0.201024, 0.201024, 0.199994757], abs=1e-9)
    for kl, bound in ((1e9, 0.3), (-1e9, 0.15)):
        bounded = KlPenalty(kl=0.2, kl_target=6.0, kl_min=0.15, kl_max=0.3, kl_horizon=100.0)
        for _ in range(20):
            bounded = bounded.adapt({"kl": kl, "sequences": 100.0})
        assert bounded.kl == bound


def test_bounds_that_hold_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match="0 < kl_min <= kl_max is needed"):
        make("rloo", {"kl_min": 0.5, "kl_max": 0.1})
