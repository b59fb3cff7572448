"""Generalised advantage estimation equals a slow twin, a case by hand, and both ends of lambda."""

from __future__ import annotations

import math

import pytest
import torch

from prefloop.ops.gae import gae

REWARD, VALUE = [0.1, -0.2, 0.3, 1.0], [0.5, 0.4, 0.2, 0.1]


def row(values: list[float]) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


def slow_twin(reward: list[float], value: list[float], gamma: float, lam: float) -> list[float]:
    """Compute Schulman 2016, eq. 16, as it is written: a discounted sum of temporal differences."""
    following = [*value[1:], 0.0]
    delta = [r + gamma * n - v for r, n, v in zip(reward, following, value, strict=True)]
    return [sum((gamma * lam) ** k * d for k, d in enumerate(delta[t:])) for t in range(len(delta))]


def test_advantages_and_returns_are_those_computed_by_hand() -> None:
    advantage, returns = gae(row(REWARD), row(VALUE), torch.ones(1, 4, dtype=torch.bool), gamma=0.9, lam=0.8)
    assert advantage[0].tolist() == pytest.approx([0.0920192, 0.18336, 0.838, 0.9], abs=1e-12)
    assert returns[0].tolist() == pytest.approx([0.5920192, 0.58336, 1.038, 1.0], abs=1e-12)


def test_with_gamma_and_lambda_one_the_advantage_is_the_reward_to_go_less_the_value() -> None:
    advantage, returns = gae(row(REWARD), row(VALUE), torch.ones(1, 4, dtype=torch.bool), gamma=1.0, lam=1.0)
    assert advantage[0].tolist() == pytest.approx([0.7, 0.7, 1.1, 0.9], abs=1e-12)
    assert returns[0].tolist() == pytest.approx([1.2, 1.1, 1.3, 1.0], abs=1e-12)


def test_with_lambda_zero_the_advantage_is_the_one_step_difference() -> None:
    advantage, _ = gae(row(REWARD), row(VALUE), torch.ones(1, 4, dtype=torch.bool), gamma=0.9, lam=0.0)
    expected = [r + 0.9 * n - v for r, n, v in zip(REWARD, [*VALUE[1:], 0.0], VALUE, strict=True)]
    assert advantage[0].tolist() == pytest.approx(expected, abs=1e-12)


def test_ragged_rows_get_what_each_would_get_alone_whatever_stands_outside_the_actions() -> None:
    generator = torch.Generator().manual_seed(1)
    action = torch.zeros(4, 9, dtype=torch.bool)
    spans = [(0, 9), (3, 5), (8, 9), (1, 7)]
    for n, (first, last) in enumerate(spans):
        action[n, first:last] = True
    reward = torch.randn(4, 9, generator=generator, dtype=torch.float64)
    value = torch.randn(4, 9, generator=generator, dtype=torch.float64)
    dirty = (torch.where(action, x, torch.full_like(x, math.nan)) for x in (reward, value))
    advantage, returns = gae(*dirty, action, gamma=0.95, lam=0.7)
    for n, (first, last) in enumerate(spans):
        alone = slow_twin(reward[n, first:last].tolist(), value[n, first:last].tolist(), 0.95, 0.7)
        assert advantage[n, first:last].tolist() == pytest.approx(alone, abs=1e-12)
    assert torch.equal(advantage[~action], torch.zeros_like(advantage[~action]))
    assert torch.equal(returns[~action], torch.zeros_like(returns[~action]))
    assert torch.allclose(returns[action], (advantage + value)[action])


def test_nothing_is_bootstrapped_beyond_the_last_action_token() -> None:
    action = torch.tensor([[True, True, False]])
    advantage, _ = gae(row([0.0, 1.0, 0.0]), row([0.0, 0.0, 100.0]), action, gamma=1.0, lam=1.0)
    assert advantage[0].tolist() == [1.0, 1.0, 0.0]
