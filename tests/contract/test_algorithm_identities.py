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

from prefloop.algorithms.imitation import ImitateBest
from prefloop.algorithms.registry import make, names, options_of
from prefloop.batch import ReferencedBatch, RewardOutput, collate_rankings
from prefloop.errors import ConfigError
from prefloop.types import Ranking

ONLINE, REWARD = names("online"), names("reward")
FROM_REFERENCE = ["dpo", "dpo_plackett_luce", "dpo_ties", "ipo"]  # Their loss is of gaps of the distance to it.
ROWS = [name for name in ONLINE if name != "online_dpo"]  # Its credit are lists.


# -- identities of some kinds ----------------------------------------------------------------------------------------


def made(name: str, **options: Any) -> Any:
    """Return the algorithm with those of the options that it has."""
    return make(name, {key: value for key, value in options.items() if key in options_of(make(name))})


GROUPED = ["grpo", "dr_grpo", "dapo", "gspo", "cispo", "rloo", "reinforce_plus_plus_baseline", "online_dpo", "raft"]


@pytest.mark.parametrize("name", GROUPED)
def test_a_shift_of_each_prompts_rewards_leaves_the_gradient_as_it_is(name: str) -> None:
    algorithm, batch = make(name), annotated()
    shifted = dataclasses.replace(batch, reward=batch.reward + 10 * noise((99,), 4)[batch.group])
    assert_same(learn(algorithm, ready(algorithm, batch))[0], learn(algorithm, ready(algorithm, shifted))[0])


def test_a_shift_of_all_rewards_does_change_ppo_without_whitening() -> None:
    algorithm, batch = make("ppo", {"whiten_advantages": False}), annotated()
    shifted = dataclasses.replace(batch, reward=batch.reward + 1.0)
    a, b = (learn(algorithm, ready(algorithm, x))[0] for x in (batch, shifted))
    assert not torch.allclose(a["policy.head"], b["policy.head"], atol=1e-4)


@pytest.mark.parametrize("name", [*REWARD, *FROM_REFERENCE])
def test_a_shift_of_all_scores_of_a_list_leaves_loss_and_gradient_as_they_are(name: str) -> None:
    """Where the score is the distance to the reference, the reference is shifted."""
    algorithm, batch = make(name), lists()
    shift = 5 * noise((len(batch), 1), 4)
    score = [x.requires_grad_() for x in outputs(algorithm, batch)]
    here = algorithm.loss(wrap(algorithm, score), batch)
    if name in FROM_REFERENCE:
        there = algorithm.loss(wrap(algorithm, score), dataclasses.replace(batch, ref_total=batch.ref_total + shift))
    else:
        there = algorithm.loss(RewardOutput((score[0].view(batch.present.shape) + shift).flatten()), batch)
    a, b = (torch.autograd.grad(x.total, score[0], retain_graph=True)[0] for x in (here, there))
    read = read_mask(algorithm, batch)
    assert torch.allclose(a[read], b[read], atol=1e-5)  # The batch's weights are float32.
    assert float(here.total.detach()) == pytest.approx(float(there.total.detach()), rel=1e-5)


@pytest.mark.parametrize("name", ROWS)
def test_on_the_first_update_the_ratio_is_one_and_nothing_is_clipped(name: str) -> None:
    batch = annotated()
    with torch.no_grad():
        logp, value = ToyPolicy(1)(batch).logp, ToyCritic(2)(batch)
    batch = dataclasses.replace(batch, old_logp=logp, sampler_logp=logp, value=value)
    _, metrics = learn(make(name), ready(make(name), batch))
    assert metrics["ratio"] == pytest.approx(1.0, abs=1e-6)
    assert metrics["clip_fraction"] == 0.0 and metrics["approx_kl"] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("name", ROWS)
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
    algorithm, start = made(name, kl=0.0, threshold=0.5), annotated()
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
    place = torch.arange(len(batch)) % 4
    near = dataclasses.replace(batch, reward=(place > 1).to(batch.reward), ref_logp=batch.old_logp)
    first = (place == 0)[:, None]
    far = dataclasses.replace(near, ref_logp=torch.where(first, near.old_logp - 1.0, near.old_logp))
    for name in ("rloo", "grpo"):
        made = [x.credit(far)[0].advantage for x in (make(name), make(name, {"kl": 0.0}))]
        priced, free = ((a.sum(1) / far.action.sum(1)).view(-1, 4) for a in made)
        assert (priced[:, 0] < priced[:, 1]).all() and torch.allclose(free[:, 0], free[:, 1])


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
        {"loss": 0.5981388694, "accuracy": 1.0, "implicit_reward": 0.1, "margin": 0.2, "chosen_logp": 2.0,
         "rejected_logp": 0.0}
    )  # fmt: skip


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


# -- other offline methods -------------------------------------------------------------------------------------------


def loss_of(name: str, options: dict[str, Any], batch: Any, logp: list[Tensor]) -> float:
    algorithm = make(name, options)
    return float(algorithm.loss(wrap(algorithm, logp), batch).total.detach())


def test_ipo_gives_the_golden_loss() -> None:
    batch, logp = pair(2.0)
    assert loss_of("ipo", {"beta": 0.1}, batch, logp) == pytest.approx(9.0)  # (2 - 5)^2


def test_cdpo_with_labels_of_chance_has_no_gradient_at_margin_zero() -> None:
    batch, logp = pair(0.0)
    algorithm = make("dpo", {"label_smoothing": 0.5})
    algorithm.loss(wrap(algorithm, logp), batch).total.backward()
    assert logp[0].grad is not None and not logp[0].grad.any()
    with pytest.raises(ConfigError, match="labels of chance say nothing"):
        make("dpo", {"label_smoothing": 0.5, "loss_type": "robust"})


def test_list_wise_dpo_gives_the_golden_likelihood_of_a_ranking() -> None:
    theta = torch.tensor([1.0, 0.5, -0.2, -1.3], dtype=torch.float64)
    said = [Ranking("i", "w", "quality", (("a",), ("b",), ("c",), ("d",)))]
    batch = collate_rankings([[([1, n], 1) for n in range(4)]], [list("abcd")], [said])
    batch = ReferencedBatch(**vars(batch), ref_total=torch.zeros(1, 4, dtype=torch.float64))
    logp = torch.stack([torch.zeros(4, dtype=torch.float64), theta / 0.1], 1)
    assert loss_of("dpo_plackett_luce", {"beta": 0.1}, batch, [logp]) == pytest.approx(1.492418431134983, abs=1e-7)


@pytest.mark.parametrize("tiers", [(("a",), ("b",)), (("b",), ("a",)), (("a", "b"),)])
def test_list_wise_dpo_of_two_is_dpo(tiers: tuple[tuple[str, ...], ...]) -> None:
    batch, logp = pair(1.7, tiers)
    assert loss_of("dpo_plackett_luce", {}, batch, logp) == pytest.approx(loss_of("dpo", {}, batch, logp), rel=1e-6)


@pytest.mark.parametrize("model", ["davidson", "rao_kupper"])
def test_where_ties_are_rare_and_none_is_seen_dpo_with_ties_is_dpo(model: str) -> None:
    batch, logp = pair(1.7)
    rare, plain = {"tie_rate": 1e-9, "model": model}, loss_of("dpo", {}, batch, logp)
    assert loss_of("dpo_ties", rare, batch, logp) == pytest.approx(plain, rel=1e-6)
    assert loss_of("dpo_ties", {"model": model}, batch, logp) > plain + 0.1


@pytest.mark.parametrize("model", ["davidson", "rao_kupper"])
def test_the_outcomes_of_a_pair_with_ties_sum_to_one_and_equals_tie_as_often_as_is_said(model: str) -> None:
    options = {"tie_rate": 0.4, "model": model}
    outcomes = [(("a",), ("b",)), (("b",), ("a",)), (("a", "b"),)]
    for margin in (0.0, 3.0):
        chances = [math.exp(-loss_of("dpo_ties", options, *pair(margin, tiers))) for tiers in outcomes]
        assert sum(chances) == pytest.approx(1.0)
        assert chances[2] == pytest.approx(0.4) if margin == 0 else chances[0] > chances[1]


def test_robust_dpo_of_labels_that_were_flipped_is_dpo_of_those_that_were_not_on_average() -> None:
    right, wrong = (loss_of("dpo", {"label_smoothing": 0.3, "loss_type": "robust"}, *pair(1.7, tiers))
                    for tiers in [(("a",), ("b",)), (("b",), ("a",))])  # fmt: skip
    assert 0.7 * right + 0.3 * wrong == pytest.approx(loss_of("dpo", {}, *pair(1.7)), rel=1e-6)


def test_with_a_uniform_reference_dpo_is_cpo_and_simpo_is_its_length_normalised_kind() -> None:
    batch = lists()
    batch = dataclasses.replace(batch, ref_total=torch.zeros_like(batch.ref_total))
    logp = outputs(make("cpo"), batch)
    assert loss_of("cpo", {}, batch, logp) == pytest.approx(loss_of("dpo", {}, batch, logp))
    normalised = loss_of("dpo", {"length_normalised": True, "beta": 2.0}, batch, logp)
    assert loss_of("simpo", {"gamma": 0.0, "beta": 2.0}, batch, logp) == pytest.approx(normalised)


def test_odds_are_finite_where_every_token_is_certain() -> None:
    batch, logp = pair(0.0)
    algorithm = make("orpo")
    algorithm.loss(wrap(algorithm, logp), batch).total.backward()
    assert logp[0].grad is not None and torch.isfinite(logp[0].grad).all()


def test_what_stands_beside_a_loss_has_tokens_of_the_best_answers_as_its_denominator() -> None:
    """The gradients of both, each alone and divided by its own weight, are those of the step."""
    batch = lists()
    whole, metrics = learn(make("cpo", {"sft": 0.7}), batch)
    alone, _ = learn(make("cpo", {"sft": 0.0}), batch)
    best, beside = learn(ImitateBest(), batch)
    assert_same(whole, {name: alone[name] + 0.7 * best[name] for name in alone}, atol=1e-7)
    assert metrics["nll"] == pytest.approx(beside["nll"])
    assert (
        float(ImitateBest().weight(batch))
        == float((batch.best * batch.action.sum(-1)).sum())
        > float(batch.weight.sum())
    )


# -- sft -------------------------------------------------------------------------------------------------------------


def test_sft_is_cross_entropy_on_the_completion_only() -> None:
    rows = sequences(6, seed=1)
    algorithm = make("sft")
    logp = outputs(algorithm, rows)[0]
    expected = -sum(float(logp[n, t]) for n, t in rows.action.nonzero().tolist())
    assert float(algorithm.loss(wrap(algorithm, [logp]), rows).total) == pytest.approx(expected)
    assert float(algorithm.weight(rows)) == int(rows.action.sum()) < int(rows.mask.sum())
