"""Each figure of how far a policy has moved agrees with its definition, number by number."""

from __future__ import annotations

import math

import pytest
import torch

from prefloop.ops.ratio import importance_weights, mismatch, ratio_metrics

ACTION = torch.tensor([[True, True, False], [True, False, False]])
OLD = torch.tensor([[-1.0, -2.0, math.nan], [-0.5, 9.0, 9.0]])
NEW = torch.tensor([[-1.5, -1.0, 7.0], [-0.5, math.nan, 9.0]])


def test_over_tokens_each_figure_is_its_mean_and_padding_is_never_read() -> None:
    clipped = torch.tensor([[True, False, True], [False, True, True]])
    found = {n: float(s / w) for n, (s, w) in ratio_metrics(NEW, OLD, ACTION, NEW - OLD, clipped).items()}
    moved = [-0.5, 1.0, 0.0]
    assert found["ratio"] == pytest.approx(sum(map(math.exp, moved)) / 3)
    assert found["approx_kl"] == pytest.approx(sum(math.exp(d) - 1 - d for d in moved) / 3)
    assert found["clip_fraction"] == pytest.approx(1 / 3)


def test_over_sequences_ratio_and_clipping_are_of_sequences_and_the_kl_still_of_tokens() -> None:
    ratio = torch.tensor([0.5, 1e9])
    found = {n: float(s / w) for n, (s, w) in ratio_metrics(NEW, OLD, ACTION, ratio, ratio > 1).items()}
    assert found["ratio"] == pytest.approx((math.exp(0.5) + math.exp(20)) / 2)
    assert found["clip_fraction"] == 0.5
    assert found["approx_kl"] == pytest.approx((math.exp(-0.5) - 0.5 + math.e - 2) / 3)


def test_importance_weights_are_the_ratio_of_learner_to_sampler_cut_at_the_cap() -> None:
    learner = torch.log(torch.tensor([[0.5, 0.4, 0.1, 0.3]]))
    sampler = torch.log(torch.tensor([[0.5, 0.1, 0.2, 0.1]]))
    action = torch.tensor([[True, True, True, False]])
    weights = importance_weights(learner, sampler, action, cap=2.0)
    assert torch.allclose(weights, torch.tensor([[1.0, 2.0, 0.5, 0.0]])), "4 is cut to 2, and a prompt has none"
    assert torch.equal(importance_weights(sampler, sampler, action, cap=2.0)[action], torch.ones(3))


def test_what_a_sampler_differs_by_is_counted_over_its_tokens_alone() -> None:
    learner = torch.log(torch.tensor([[0.5, 0.4, 0.1, 0.9]]))
    sampler = torch.log(torch.tensor([[0.5, 0.1, 0.2, 0.1]]))
    action = torch.tensor([[True, True, True, False]])
    found = mismatch(learner, sampler, action)
    assert found["sampler_ratio"] == pytest.approx((1 + 4 + 0.5) / 3)
    assert found["sampler_prob_error"] == pytest.approx((1 + 4 + 2) / 3)
    assert found["sampler_ess"] == pytest.approx(5.5**2 / (3 * (1 + 16 + 0.25)))
    # k3 of KL(sampler || learner) on a token is r - 1 - log r, with r the ratio of learner to sampler.
    terms = [r - 1 - math.log(r) for r in (1, 4, 0.5)]
    assert found["sampler_kl"] == pytest.approx(sum(terms) / 3, rel=1e-5)
