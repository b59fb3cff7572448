"""What online methods have in common follows from their formulas: one is another's limit, or another's loss."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor
from toy_batches import annotated, assert_same, learn, noise, outputs, ready, wrap
from toy_models import ToyPolicy

from prefloop.algorithms.registry import make
from prefloop.batch import CreditedBatch, LogprobBatch, ReferencedBatch, Rows, collate_rankings
from prefloop.ops.group import constant_rows
from prefloop.types import Ranking


def with_tokens(batch: LogprobBatch, count: int) -> LogprobBatch:
    """Return the batch in which only the first tokens of each completion count: they are all equally long."""
    action = batch.action & (batch.action.cumsum(1) <= count)
    assert (action.sum(1) == count).all()
    return dataclasses.replace(batch, action=action)


def fresh(batch: LogprobBatch) -> LogprobBatch:
    """Return the batch as the policy that learns would have sampled it."""
    with torch.no_grad():
        logp = ToyPolicy(1)(batch).logp
    return dataclasses.replace(batch, old_logp=logp, sampler_logp=logp)


def gradient(name: str, options: dict[str, Any], batch: LogprobBatch) -> dict[str, Tensor]:
    algorithm = make(name, options)
    found = learn(algorithm, ready(algorithm, batch))[0]
    return {key: value for key, value in found.items() if key.startswith("policy.")}


def test_leave_one_out_is_dr_grpos_advantage_times_k_over_k_minus_one() -> None:
    batch = annotated()
    ours, theirs = (make(name, {"kl": 0.3}).credit(batch)[0].advantage for name in ("rloo", "dr_grpo"))
    assert torch.allclose(ours, 4 / 3 * theirs) and ours.any()


def test_gspo_of_one_token_is_grpo() -> None:
    batch, options = with_tokens(annotated(), 1), {"clip": 0.05, "clip_high": 0.08}
    assert_same(gradient("gspo", options, batch), gradient("grpo", options, batch))


@pytest.mark.parametrize("kl_in", ["reward", "loss"])
def test_with_equal_lengths_the_aggregations_of_grpo_dapo_and_dr_grpo_are_one(kl_in: str) -> None:
    options = {"clip": 0.05, "clip_high": 0.08, "kl": 0.2, "kl_in": kl_in}
    credited = make("grpo", options).credit(with_tokens(annotated(), 2))[0]
    grpo, dapo, dr_grpo, doubled = (
        learn(make(name, options | more), credited)[0]
        for name, more in (("grpo", {}), ("dapo", {}), ("dr_grpo", {"length": 2}), ("dr_grpo", {"length": 1}))
    )
    assert_same(grpo, dapo)
    assert_same(grpo, dr_grpo)
    assert_same({name: 2 * value for name, value in grpo.items()}, doubled)


def test_with_other_lengths_a_token_counts_as_the_aggregation_says() -> None:
    """The gradient of a token is -A, divided by its row's length, by all tokens, or by rows times a constant."""
    batch = fresh(annotated())
    length = batch.action.sum(1)
    shares = {"grpo": 1 / length, "dapo": 1 / length.sum() * len(batch), "dr_grpo": 1 / torch.tensor(9.0)}
    for name, share in shares.items():
        algorithm = make(name, {"kl": 0.0, **({"length": 9} if name == "dr_grpo" else {})})
        credited = ready(algorithm, batch)
        logp = credited.old_logp.clone().requires_grad_()
        loss = algorithm.loss(wrap(algorithm, [logp]), credited).total / algorithm.weight(credited)
        (found,) = torch.autograd.grad(loss, logp)
        expected = -credited.advantage * share.expand(len(batch))[:, None] / len(batch)
        assert torch.allclose(found[batch.action], expected[batch.action], rtol=1e-6), name


def test_on_the_first_update_cispo_is_the_policy_gradient_and_later_no_token_loses_its_own() -> None:
    batch = annotated()
    assert_same(gradient("cispo", {}, fresh(batch)), gradient("dapo", {"drop_constant": False}, fresh(batch)))
    algorithm = make("cispo", {"clip_high": 0.05})
    credited = ready(algorithm, batch)
    (logp,) = outputs(algorithm, credited)
    logp.requires_grad_()
    (found,) = torch.autograd.grad(algorithm.loss(wrap(algorithm, [logp]), credited).total, logp)
    ratio = torch.exp(logp.detach() - credited.old_logp)
    held = -ratio.clamp(max=1.05) * credited.advantage
    assert (ratio[batch.action] > 1.05).any() and (ratio[batch.action] < 0.95).any()
    assert torch.allclose(found[batch.action], held[batch.action])


def test_a_k2_term_in_the_loss_has_the_gradient_of_the_reverse_kl() -> None:
    algorithm = make("reinforce_plus_plus_baseline", {"kl": 0.3})
    credited = ready(algorithm, annotated())
    credited = dataclasses.replace(credited, advantage=torch.zeros_like(credited.advantage))
    (logp,) = outputs(algorithm, credited)
    logp.requires_grad_()
    (found,) = torch.autograd.grad(algorithm.loss(wrap(algorithm, [logp]), credited).total, logp)
    expected = 0.3 * torch.exp(logp.detach() - credited.old_logp) * (logp.detach() - credited.ref_logp)
    assert torch.allclose(found[credited.action], expected[credited.action])


@pytest.mark.parametrize("name", ["ppo", "grpo", "dr_grpo", "dapo", "gspo", "rloo", "reinforce", "reinforce_plus_plus"])
def test_dual_clip_holds_the_loss_of_bad_answers_only(name: str) -> None:
    plain, dual = make(name, {"clip": 0.3}), make(name, {"clip": 0.3, "dual_clip": 1.01})
    credited = ready(plain, annotated())
    good = dataclasses.replace(credited, advantage=credited.advantage.abs())
    bad = dataclasses.replace(credited, advantage=-credited.advantage.abs())
    out = wrap(plain, outputs(plain, credited))
    assert float(plain.loss(out, good).total) == float(dual.loss(out, good).total)
    assert float(plain.loss(out, bad).total) > float(dual.loss(out, bad).total)


def test_reinforce_plus_plus_is_ppo_with_a_critic_that_always_says_nothing() -> None:
    batch = annotated()
    batch = dataclasses.replace(batch, value=torch.zeros_like(batch.value))
    ours = make("reinforce_plus_plus", {"kl": 0.3}).credit(batch)[0].advantage
    theirs = make("ppo", {"kl": 0.3, "lam": 1.0}).credit(batch)[0].advantage
    assert torch.equal(ours, theirs) and ours.any()
    assert_same(gradient("reinforce_plus_plus", {"kl": 0.3}, batch), gradient("ppo", {"kl": 0.3, "lam": 1.0}, batch))


def test_a_prompts_baseline_takes_a_shift_of_its_rewards_away() -> None:
    batch = annotated()
    shift = 10 * noise((99,), 4)[batch.group]
    moved = dataclasses.replace(batch, reward=batch.reward + shift, baseline=batch.baseline + shift)
    assert_same(gradient("reinforce", {}, batch), gradient("reinforce", {}, moved))
    everywhere = dataclasses.replace(batch, reward=batch.reward + 5.0)
    assert_same(gradient("reinforce", {}, batch), gradient("reinforce", {}, everywhere))
    a, b = (make("reinforce", {"baseline": "none"}).credit(x)[0].advantage for x in (batch, everywhere))
    assert torch.allclose(b - a, torch.where(batch.action, 5.0, 0.0).double())


def test_reinforce_plus_plus_baseline_whitens_over_all_tokens() -> None:
    credited = make("reinforce_plus_plus_baseline").credit(annotated())[0]
    inside = credited.advantage[credited.action]
    assert float(inside.mean()) == pytest.approx(0.0, abs=1e-9)
    assert float(inside.var(unbiased=False)) == pytest.approx(1.0, abs=1e-6)


def test_online_dpo_is_dpo_on_lists_that_the_reward_has_ranked() -> None:
    """One group is all equal, and another has a tie."""
    batch = annotated()
    reward = batch.reward.clone()
    reward[4:8], reward[9] = 1.0, reward[8]
    batch = dataclasses.replace(batch, reward=reward)
    algorithm = make("online_dpo", {"beta": 0.2})
    rows = [n for n in range(len(batch)) if n // 4 != 1]
    encoded, said, ids = [], [], []
    for first in range(0, len(rows), 4):
        group = rows[first : first + 4]
        tiers = sorted({float(reward[n]) for n in group}, reverse=True)
        named = tuple(tuple(f"c{n}" for n in group if float(reward[n]) == r) for r in tiers)
        said.append([Ranking("i", "w", "quality", named)])
        ids.append([f"c{n}" for n in group])
        encoded.append(
            [(batch.ids[n][batch.mask[n]].tolist(), int((batch.mask[n] & ~batch.action[n]).sum())) for n in group]
        )
    ranked = collate_rankings(encoded, ids, said)
    total = torch.where(batch.action, batch.ref_logp, 0.0).sum(1)[rows].view(-1, 4)
    theirs = ReferencedBatch(**vars(ranked), ref_total=total)
    ours, metrics = learn(algorithm, ready(algorithm, batch))
    expected, expected_metrics = learn(make("dpo", {"beta": 0.2}), theirs)
    assert_same(ours, expected, atol=1e-6)
    assert metrics == pytest.approx(expected_metrics, rel=1e-5)


def test_soft_labels_are_the_probabilities_that_the_rewards_give() -> None:
    batch = annotated(4, 4)
    found = ready(make("online_dpo", {"labels": "soft"}), batch)
    best = batch.reward.sort(descending=True).values
    expected = torch.sigmoid(best[:, None] - best[None, :]) / 6
    assert torch.allclose(found.wins[0], expected.fill_diagonal_(0.0))


@pytest.mark.parametrize(("name", "options"), [("raft", {"keep": 2}), ("expert_iteration", {"threshold": 0.2})])
def test_methods_that_imitate_are_supervised_fine_tuning_on_the_rows_they_keep(
    name: str, options: dict[str, Any]
) -> None:
    batch = annotated()
    if name == "raft":
        batch = dataclasses.replace(batch, reward=torch.where(batch.group == 2, 3.0, batch.reward))
    rows = []
    for first in range(0, len(batch), 4):
        group = sorted(range(first, first + 4), key=lambda n: -float(batch.reward[n]))
        if name == "raft":
            rows += [] if first == 8 else sorted(group[:2])
        else:
            rows += sorted(n for n in group if batch.reward[n] >= 0.2)
    some = Rows(batch.ids, batch.mask, batch.action).select(torch.tensor(rows))
    algorithm = make(name, options)
    credited = algorithm.credit(batch)[0]
    assert credited.kept.nonzero().flatten().tolist() == rows
    assert (credited.advantage.amax(1) == credited.kept).all()
    assert_same(learn(algorithm, credited.learnt())[0], learn(make("sft"), some)[0])


def test_expert_iteration_takes_the_best_answers_of_a_prompt_first() -> None:
    batch = dataclasses.replace(annotated(4, 4), reward=torch.tensor([0.5, 2.0, 1.0, -1.0]))
    kept = make("expert_iteration", {"per_prompt": 2}).credit(batch)[0].kept
    assert kept.tolist() == [False, True, True, False]


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "gspo", "rloo", "cispo"])
def test_dropped_groups_do_not_count_in_the_mean(name: str) -> None:
    """Two of six groups are constant: without them the gradient is that of the other four alone."""
    batch = annotated()
    constant = batch.group < 2
    batch = dataclasses.replace(batch, reward=torch.where(constant, 1.0, batch.reward))
    alone = batch.select((~constant).nonzero().flatten())
    algorithm = make(name, {"kl": 0.0, "drop_constant": True})
    credited: CreditedBatch = algorithm.credit(batch)[0]
    assert torch.equal(credited.kept, ~constant) and torch.equal(constant_rows(batch.reward, batch.group), constant)
    assert_same(learn(algorithm, credited.learnt())[0], gradient(name, {"kl": 0.0}, alone))
    counted = learn(algorithm, make(name, {"kl": 0.0}).credit(batch)[0])[0]
    dropped = learn(algorithm, credited.learnt())[0]
    share = 4 / 6 if name != "cispo" else float(alone.action.sum() / batch.action.sum())
    assert_same({key: share * value for key, value in dropped.items()}, counted, atol=1e-7)


def test_while_the_critic_warms_up_no_gradient_reaches_the_policy() -> None:
    batch = annotated()
    warm, usual = make("ppo", {"critic_warmup": 2, "kl_target": 6.0}), make("ppo", {"kl_target": 6.0})
    still, moves = (learn(algorithm, ready(algorithm, batch))[0] for algorithm in (warm, usual))
    assert not any(value.any() for name, value in still.items() if name.startswith("policy."))
    for name in (name for name in still if name.startswith("critic.")):
        assert torch.equal(still[name], moves[name]) and moves[name].any()
    metrics = {"kl": 12.0, "sequences": 256.0}
    assert warm.adapt(metrics) == make("ppo", {"critic_warmup": 1, "kl_target": 6.0})
    assert warm.adapt(metrics).adapt(metrics) == usual and usual.adapt(metrics).kl > usual.kl


@pytest.mark.parametrize("name", ["grpo", "dapo", "gspo", "cispo"])
def test_the_kl_of_a_group_with_equal_rewards_is_not_scaled_up_to_a_reward(name: str) -> None:
    batch = annotated()
    constant = batch.group < 2
    batch = dataclasses.replace(batch, reward=torch.where(constant, 1.0, batch.reward))
    found = make(name, {"kl": 0.3, "kl_in": "reward", "drop_constant": False}).credit(batch)[0].advantage
    assert not found[constant].any() and (found[~constant] != 0).equal(batch.action[~constant])
