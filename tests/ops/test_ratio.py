"""Each figure of how far a policy has moved agrees with its definition, number by number."""

from __future__ import annotations

import math

import pytest
import torch

from prefloop.ops.ratio import ratio_metrics

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
