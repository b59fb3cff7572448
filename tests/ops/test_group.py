"""Baselines come from the other completions of a prompt."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prefloop.ops.group import constant_groups, group_normalised, group_sums, leave_one_out

R = torch.tensor([2.0, 1.0, 0.5, 0.5], dtype=torch.float64)
ONE = torch.zeros(4, dtype=torch.long)


def test_leave_one_out_gives_the_golden_advantages() -> None:
    assert leave_one_out(R, ONE).tolist() == pytest.approx([4 / 3, 0.0, -2 / 3, -2 / 3])


def test_group_normalisation_uses_the_sample_deviation() -> None:
    golden = [1.414214, 0.0, -0.707107, -0.707107]
    assert group_normalised(R, ONE, eps=0.0).tolist() == pytest.approx(golden, abs=1e-6)
    assert group_normalised(R, ONE).tolist() == pytest.approx(golden, abs=5e-4)


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=8))
def test_leave_one_out_is_the_distance_to_the_mean_times_k_over_k_minus_one(rewards: list[float]) -> None:
    r = torch.tensor(rewards, dtype=torch.float64)
    k = len(rewards)
    advantage = leave_one_out(r, torch.zeros(k, dtype=torch.long))
    assert torch.allclose(advantage, k / (k - 1) * (r - r.mean()), atol=1e-9)


def test_groups_do_not_see_each_other_and_their_order_and_names_do_not_matter() -> None:
    generator = torch.Generator().manual_seed(0)
    r, group = torch.randn(12, generator=generator, dtype=torch.float64), torch.tensor([7, 0, 7, 3] * 3)
    for f in (leave_one_out, group_normalised):
        whole = f(r, group)
        for g in (0, 3, 7):
            alone = f(r[group == g], torch.zeros(int((group == g).sum()), dtype=torch.long))
            assert torch.allclose(whole[group == g], alone)


def test_a_prompt_with_one_completion_has_no_baseline_and_teaches_nothing() -> None:
    group = torch.tensor([0, 1, 1])
    assert leave_one_out(R[:3], group)[0] == 0.0
    assert group_normalised(R[:3], group)[0] == 0.0


def test_a_shift_of_a_prompts_rewards_changes_no_advantage() -> None:
    group = torch.tensor([0, 0, 1, 1])
    shifted = R + torch.tensor([5.0, 5.0, -3.0, -3.0], dtype=torch.float64)
    assert torch.allclose(leave_one_out(R, group), leave_one_out(shifted, group))
    assert torch.allclose(group_normalised(R, group), group_normalised(shifted, group))


def test_groups_with_one_and_the_same_reward_are_counted_by_rows() -> None:
    reward = torch.tensor([1.0, 1.0, 1.0, 0.0, 5.0])
    assert float(constant_groups(reward, torch.tensor([0, 0, 1, 1, 2]))) == pytest.approx(3 / 5)


def test_sums_and_counts_are_given_back_for_each_row() -> None:
    total, count = group_sums(R, torch.tensor([1, 1, 0, 1]))
    assert total.tolist() == [3.5, 3.5, 0.5, 3.5] and count.tolist() == [3.0, 3.0, 1.0, 3.0]
