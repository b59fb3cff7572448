"""Computes generalised advantage estimation (Schulman 2016, eq. 16) over ragged rows."""

from __future__ import annotations

import torch
from torch import Tensor

from prefloop.ops.masked import keep


def gae(reward: Tensor, value: Tensor, action: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Return advantages and returns of every action token.

    reward, value: [N,T]  for each action token; value[n,t] is the critic's estimate *before* token t was chosen
    action:        [N,T]  bool; each row's action tokens are contiguous
    returns:       advantage [N,T], returns [N,T] = advantage + value; 0 outside the actions

    The episode ends with the row's last action token: nothing is bootstrapped beyond it.
    """
    reward, value = keep(reward, action), keep(value, action)
    advantage = torch.zeros_like(reward)
    carry = torch.zeros_like(reward[:, 0])
    next_value = torch.zeros_like(carry)
    for t in range(reward.shape[1] - 1, -1, -1):
        here = action[:, t]
        delta = reward[:, t] + gamma * next_value - value[:, t]
        carry = torch.where(here, delta + gamma * lam * carry, torch.zeros_like(carry))
        next_value = torch.where(here, value[:, t], torch.zeros_like(carry))
        advantage[:, t] = carry
    return advantage, keep(advantage + value, action)
