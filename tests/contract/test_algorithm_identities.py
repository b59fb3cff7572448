"""Shifts, signs, payments of rewards and golden losses follow from the maths of an algorithm or of a kind of
algorithms.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from toy_batches import annotated, assert_same, dirty, learn, lists, noise, outputs, read_mask, ready, sequences, wrap
from toy_models import ToyCritic, ToyPolicy

from prefloop.algorithms.registry import make, names
from prefloop.batch import ReferencedBatch, RewardOutput, collate_rankings
from prefloop.types import Ranking

ONLINE, LISTS = names("online"), names("reward", "offline")


# -- identities of some kinds ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["grpo", "rloo"])
def test_a_shift_of_each_prompts_rewards_leaves_the_gradient_as_it_is(name: str) -> None:
    algorithm, batch = make(name), annotated()
    shifted = dataclasses.replace(batch, reward=batch.reward + 10 * noise((99,), 4)[batch.group])
    assert_same(learn(algorithm, ready(algorithm, batch))[0], learn(algorithm, ready(algorithm, shifted))[0])


def test_a_shift_of_all_rewards_does_change_ppo_without_whitening() -> None:
    algorithm, batch = make("ppo", {"whiten_advantages": False}), annotated()
    shifted = dataclasses.replace(batch, reward=batch.reward + 1.0)
    a, b = (learn(algorithm, ready(algorithm, x))[0] for x in (batch, shifted))
    assert not torch.allclose(a["policy.head"], b["policy.head"], atol=1e-4)


@pytest.mark.parametrize("name", LISTS)
def test_a_shift_of_all_scores_of_a_list_leaves_loss_and_gradient_as_they_are(name: str) -> None:
    """For DPO, whose score is the distance to the reference, the reference is shifted."""
    algorithm, batch = make(name), lists()
    shift = 5 * noise((len(batch), 1), 4)
    score = [x.requires_grad_() for x in outputs(algorithm, batch)]
    here = algorithm.loss(wrap(algorithm, score), batch)
    if name == "dpo":
        there = algorithm.loss(wrap(algorithm, score), dataclasses.replace(batch, ref_total=batch.ref_total + shift))
    else:
        there = algorithm.loss(RewardOutput((score[0].view(batch.present.shape) + shift).flatten()), batch)
    a, b = (torch.autograd.grad(x.total, score[0], retain_graph=True)[0] for x in (here, there))
    read = read_mask(algorithm, batch)
    assert torch.allclose(a[read], b[read], atol=1e-5)  # The batch's weights are float32.
    assert float(here.total.detach()) == pytest.approx(float(there.total.detach()), rel=1e-5)


@pytest.mark.parametrize("name", ONLINE)
def test_on_the_first_update_the_ratio_is_one_and_nothing_is_clipped(name: str) -> None:
    batch = annotated()
    with torch.no_grad():
        logp, value = ToyPolicy(1)(batch).logp, ToyCritic(2)(batch)
    batch = dataclasses.replace(batch, old_logp=logp, sampler_logp=logp, value=value)
    _, metrics = learn(make(name), ready(make(name), batch))
    assert metrics["ratio"] == pytest.approx(1.0, abs=1e-6)
    assert metrics["clip_fraction"] == 0.0 and metrics["approx_kl"] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("name", ONLINE)
def test_credit_is_finite_and_zero_outside_the_completion(name: str) -> None:
    algorithm = make(name)
    credited, logged = algorithm.credit(dirty(annotated(), 3))
    assert (credited.returns is None) is ("value" not in algorithm.needs)
    for tensor in (t for t in (credited.advantage, credited.returns) if t is not None):
        assert torch.isfinite(tensor).all() and not tensor[~credited.action].any()
    assert all(math.isfinite(v) for v in logged.values())
    assert algorithm.adapt({"kl": 3.0, "sequences": 8.0}).name == name


@pytest.mark.parametrize("name", ONLINE)
def test_a_higher_reward_makes_its_completion_more_likely(name: str) -> None:
    """The sign of everything is tested end to end: a step goes along minus the gradient, and the log-probabilities
    move.
    """
    algorithm, start = make(name, {"kl": 0.0}), annotated()
    with torch.no_grad():
        logp = ToyPolicy(1)(start).logp
    reward = (torch.arange(len(start)) % 4 == 0).double()
    batch = dataclasses.replace(start, old_logp=logp, ref_logp=logp, reward=reward, value=torch.zeros_like(start.value))
    gradient, _ = learn(algorithm, ready(algorithm, batch))
    policy = ToyPolicy(1)
    with torch.no_grad():
        for parameter_name, parameter in policy.named_parameters():
            parameter -= 0.05 * gradient[f"policy.{parameter_name}"]
        gain = torch.where(batch.action, policy(batch).logp - logp, 0.0).sum(1)
    assert gain[reward == 1].mean() > gain[reward == 0].mean()


# -- ppo -------------------------------------------------------------------------------------------------------------


def test_ppo_pays_the_score_at_the_last_token_and_the_kl_at_each() -> None:
    batch = annotated()
    algorithm = make("ppo", {"kl": 0.3, "gamma": 1.0, "lam": 1.0, "whiten_advantages": False})
    credited, _ = algorithm.credit(dataclasses.replace(batch, value=torch.zeros_like(batch.value)))
    price = torch.where(batch.action, 0.3 * (batch.old_logp - batch.ref_logp), 0.0)
    for n in range(len(batch)):
        places = batch.action[n].nonzero().flatten()
        for t in places.tolist():  # With lambda 1 and no critic, the advantage is the reward to go.
            assert float(credited.returns[n, t]) == pytest.approx(float(batch.reward[n] - price[n, t:].sum()))


def test_ppo_whitens_advantages_over_the_whole_batch() -> None:
    credited, _ = make("ppo").credit(annotated())
    inside = credited.advantage[credited.action]
    assert float(inside.mean()) == pytest.approx(0.0, abs=1e-9)
    assert float(inside.var(unbiased=False)) == pytest.approx(1.0, abs=1e-5)


def test_ppo_adapts_its_kl_coefficient_only_where_it_has_a_target() -> None:
    assert make("ppo").adapt({"kl": 100.0, "sequences": 256.0}).kl == make("ppo").kl
    adaptive = make("ppo", {"kl": 0.2, "kl_target": 6.0})
    assert adaptive.adapt({"kl": 12.0, "sequences": 256.0}).kl == pytest.approx(0.201024)


def test_reward_side_kl_is_part_of_what_rloo_and_grpo_compare() -> None:
    """A completion far from the reference is worth less than its equal near to it."""
    batch = annotated()
    near = dataclasses.replace(batch, reward=torch.zeros_like(batch.reward), ref_logp=batch.old_logp)
    first = (torch.arange(len(batch)) % 4 == 0)[:, None]
    far = dataclasses.replace(near, ref_logp=torch.where(first, near.old_logp - 1.0, near.old_logp))
    for name in ("rloo", "grpo"):
        advantage = make(name).credit(far)[0].advantage
        assert (advantage[first.expand_as(advantage) & batch.action] < 0).all()


# -- dpo -------------------------------------------------------------------------------------------------------------


def pair(margin: float, tiers: tuple[tuple[str, ...], ...] = (("a",), ("b",))) -> tuple[Any, list[Tensor]]:
    batch = collate_rankings([[([1, 2], 1), ([1, 3], 1)]], [["a", "b"]], [[Ranking("i", "w", "quality", tiers)]])
    logp = torch.tensor([[0.0, margin], [0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    return ReferencedBatch(**vars(batch), ref_total=torch.zeros(1, 2, dtype=torch.float64)), [logp]


def test_dpo_gives_the_golden_loss() -> None:
    batch, logp = pair(2.0)
    algorithm = make("dpo", {"beta": 0.1})
    loss = algorithm.loss(wrap(algorithm, logp), batch)
    assert float(loss.total.detach()) == pytest.approx(0.5981388694, abs=1e-10)
    assert {k: float(s / w) for k, (s, w) in loss.metrics.items()} == pytest.approx(
        {"loss": 0.5981388694, "accuracy": 1.0, "implicit_reward": 0.1}
    )


def test_dpo_at_a_tie_has_no_gradient_at_margin_zero() -> None:
    batch, logp = pair(0.0, (("a", "b"),))
    algorithm = make("dpo")
    algorithm.loss(wrap(algorithm, logp), batch).total.backward()
    assert logp[0].grad is not None and not logp[0].grad.any()


def test_dpo_of_a_list_is_the_mean_over_its_pairs() -> None:
    algorithm, batch = make("dpo", {"beta": 0.2}), lists()
    logp = outputs(algorithm, batch)[0]
    gap = 0.2 * (torch.where(batch.rows().action, logp, 0.0).sum(1).view(batch.present.shape) - batch.ref_total)
    slow = 0.0
    for r in range(len(batch)):
        for i in range(gap.shape[1]):
            for j in range(gap.shape[1]):
                if batch.wins[r, i, j] > 0:
                    slow += float(batch.wins[r, i, j]) * math.log1p(math.exp(-float(gap[r, i] - gap[r, j])))
    assert float(algorithm.loss(wrap(algorithm, [logp]), batch).total) == pytest.approx(slow, rel=1e-5)


# -- sft -------------------------------------------------------------------------------------------------------------


def test_sft_is_cross_entropy_on_the_completion_only() -> None:
    rows = sequences(6, seed=1)
    algorithm = make("sft")
    logp = outputs(algorithm, rows)[0]
    expected = -sum(float(logp[n, t]) for n, t in rows.action.nonzero().tolist())
    assert float(algorithm.loss(wrap(algorithm, [logp]), rows).total) == pytest.approx(expected)
    assert float(algorithm.weight(rows)) == int(rows.action.sum()) < int(rows.mask.sum())
