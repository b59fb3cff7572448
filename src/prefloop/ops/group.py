"""Computes baselines from the other completions of the same prompt."""

from __future__ import annotations

import torch
from torch import Tensor


def group_sums(x: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """Return sum and count of x [N] within each group, given back for each row: [N], [N]. group [N]: any integers."""
    _, index = torch.unique(group, return_inverse=True)
    size = int(index.max()) + 1 if index.numel() else 0
    total = x.new_zeros(size).index_add_(0, index, x)
    count = x.new_zeros(size).index_add_(0, index, torch.ones_like(x))
    return total[index], count[index]


def leave_one_out(reward: Tensor, group: Tensor) -> Tensor:
    """Return the reward minus the mean of the group's *other* rewards (RLOO, Ahmadian 2024) = k/(k-1) (r - mean).

    A group of one has no baseline: its advantage is 0.
    """
    total, count = group_sums(reward, group)
    others = (total - reward) / (count - 1).clamp(min=1)
    return torch.where(count > 1, reward - others, torch.zeros_like(reward))


def group_centred(reward: Tensor, group: Tensor) -> Tensor:
    """Return r - mean in each group (Dr. GRPO, Liu 2025); 0 for a group of one."""
    total, count = group_sums(reward, group)
    return reward - total / count


def group_normalised(reward: Tensor, group: Tensor, eps: float = 1e-4) -> Tensor:
    """Return (r - mean) / (std + eps) in each group (GRPO, Shao 2024); 0 for a group of one.

    std has ddof 1, as torch.std has.
    """
    _, count = group_sums(reward, group)
    centred = group_centred(reward, group)
    squares, _ = group_sums(centred**2, group)
    std = torch.sqrt(squares / (count - 1).clamp(min=1))
    return torch.where(count > 1, centred / (std + eps), torch.zeros_like(reward))


def constant_rows(reward: Tensor, group: Tensor) -> Tensor:
    """Return which rows [N] are of a group that got one and the same reward: these teach nothing."""
    total, count = group_sums(reward, group)
    squares, _ = group_sums((reward - total / count) ** 2, group)
    return squares <= 1e-12 * (1 + reward**2)


def constant_groups(reward: Tensor, group: Tensor) -> Tensor:
    """Return the share of rows whose whole group got one and the same reward."""
    return constant_rows(reward, group).float().mean()


def rank_in_group(reward: Tensor, group: Tensor) -> Tensor:
    """Return how many rows of its group are before each row [N], best reward first; equal ones stand as they came."""
    best_first = torch.argsort(reward, descending=True, stable=True)
    order = best_first[torch.argsort(group[best_first], stable=True)]
    _, count = torch.unique_consecutive(group[order], return_counts=True)
    place = torch.arange(len(order), device=order.device)
    rank = torch.empty_like(order)
    rank[order] = place - torch.repeat_interleave(count.cumsum(0) - count, count)
    return rank
