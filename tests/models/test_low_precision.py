"""What a frozen model in bfloat16 says is what it says in float32, within the bound that docs/performance.md states."""

from __future__ import annotations

import copy

import torch
from transformers import AutoModelForSequenceClassification

from prefloop.batch import collate
from prefloop.models.policy import Policy
from prefloop.models.reward import Critic, RewardModel
from tiny_models import causal

MEAN, MOST, BIAS = 0.02, 0.2, 0.003  # in nats a token


def test_a_bfloat16_reference_is_within_the_stated_bound() -> None:
    model = causal(sharp=10.0)
    draw = torch.Generator().manual_seed(0)
    vocabulary = model.config.vocab_size
    rows = [torch.randint(vocabulary, (n % 20 + 12,), generator=draw).tolist() for n in range(64)]
    batch = collate(rows, [4] * len(rows))
    with torch.no_grad():
        exact, low = (Policy(one)(batch).logp[batch.action] for one in (model, copy.deepcopy(model).to(torch.bfloat16)))
    apart = low - exact
    assert low.dtype == torch.float32 and exact.std() > 0.5
    assert 0 < apart.abs().mean() < MEAN and apart.abs().max() < MOST and apart.mean().abs() < BIAS


def test_rewards_and_values_of_a_bfloat16_model_are_finer_than_bfloat16() -> None:
    """Its own steps are of 1/256 of a number: many answers to a prompt would be worth the same."""
    config = causal().config
    config.num_labels = 1
    model = AutoModelForSequenceClassification.from_config(config).eval().to(torch.bfloat16)
    batch = collate([[n + 3, n + 4, n + 5, n + 6] for n in range(32)], [2] * 32)
    with torch.no_grad():
        for found in (RewardModel(model)(batch).score, Critic(model, 0.0, 1.0)(batch)[batch.action]):
            assert found.dtype == torch.float32 and (found != found.bfloat16().float()).float().mean() > 0.8
