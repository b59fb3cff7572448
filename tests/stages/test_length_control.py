"""Length can be priced beyond a target, and taken out of the reward."""

from __future__ import annotations

import pytest
import torch

from prefloop.config_align import Rollout
from prefloop.training.rollout import length_control

LENGTH = torch.tensor([2.0, 4.0, 6.0, 8.0])


def test_a_token_over_the_target_costs_the_penalty_and_one_under_it_nothing() -> None:
    settings = Rollout(length_penalty=0.5, length_target=5)
    assert length_control(torch.ones(4), LENGTH, settings).tolist() == [1.0, 1.0, 0.5, -0.5]
    assert length_control(torch.ones(4), LENGTH, Rollout()).tolist() == [1.0] * 4


def test_a_reward_without_its_length_does_not_go_with_length_and_keeps_what_length_does_not_explain() -> None:
    merit = torch.tensor([1.0, -1.0, -1.0, 1.0])  # It goes with length at no slope.
    settings = Rollout(length_normalised=True)
    made = length_control(merit + 0.7 * LENGTH, LENGTH, settings)
    assert (made - made.mean()).tolist() == pytest.approx(merit.tolist(), abs=1e-5)
    assert float(made.mean()) == pytest.approx(0.7 * 5.0)
    same = torch.full((4,), 3.0)
    assert length_control(merit, same, settings).tolist() == merit.tolist(), "answers of one length tell no line"
