"""The clipped losses of PPO are right on numbers that can be followed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from prefloop.ops.clip import clipped_policy_loss, clipped_value_loss


def t(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped"),
    [
        (1.0, 2.0, -2.0, False),
        (1.1, 2.0, -2.2, False),
        (1.5, 2.0, -2.4, True),  # It is too good already, so it is held at 1.2.
        (0.5, 2.0, -1.0, False),  # It is worse than it was, so it is free to come back.
        (0.5, -2.0, 1.6, True),  # It is avoided already, so it is held at 0.8.
        (1.5, -2.0, 3.0, False),
    ],
)
def test_the_ratio_is_held_only_where_it_would_gain_by_moving_on(
    ratio: float, advantage: float, loss: float, clipped: bool
) -> None:
    got, cut = clipped_policy_loss(t(math.log(ratio)), t(0.0), t(advantage), clip=0.2)
    assert float(got) == pytest.approx(loss) and bool(cut) is clipped


def test_a_clipped_token_has_no_gradient_and_an_unclipped_one_minus_ratio_times_advantage() -> None:
    logp = t(math.log(1.5), math.log(0.9)).requires_grad_()
    clipped_policy_loss(logp, t(0.0, 0.0), t(2.0, 2.0), clip=0.2)[0].sum().backward()
    assert logp.grad is not None and logp.grad.tolist() == pytest.approx([0.0, -1.8])


def test_the_first_update_is_plain_policy_gradient() -> None:
    logp = t(-1.0, -2.0).requires_grad_()
    clipped_policy_loss(logp, logp.detach(), t(0.7, -0.3), clip=0.2)[0].sum().backward()
    assert logp.grad is not None and logp.grad.tolist() == pytest.approx([-0.7, 0.3])


@pytest.mark.parametrize(
    ("value", "loss", "clipped"),
    [
        (1.1, 0.5 * 0.9**2, False),  # It is within 0.2 of the old value 1.0, and the target is 2.0.
        (1.5, 0.5 * 0.8**2, True),  # It ran ahead, and is judged as 1.2.
        (0.5, 0.5 * 1.5**2, False),  # Judged as 0.8 it would have the smaller error, but the larger one counts.
    ],
)
def test_the_critic_is_judged_by_the_worse_of_free_and_held_value(value: float, loss: float, clipped: bool) -> None:
    got, cut = clipped_value_loss(t(value), t(1.0), t(2.0), clip=0.2)
    assert float(got) == pytest.approx(loss) and bool(cut) is clipped


def test_loss_and_gradient_stay_finite_where_a_policy_has_run_away() -> None:
    logp = torch.tensor([-1e4, 1e4, 0.0], requires_grad=True)
    for advantage in (1.0, -1.0):
        loss, _ = clipped_policy_loss(logp, torch.zeros(3), torch.full((3,), advantage), clip=0.2)
        (grad,) = torch.autograd.grad(loss.sum(), logp)
        assert torch.isfinite(loss).all() and torch.isfinite(grad).all()
