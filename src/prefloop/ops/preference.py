"""Computes likelihoods of human preferences over lists of scores.

They are sums, never means; the engine divides, once.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def bradley_terry(score: Tensor, wins: Tensor) -> Tensor:
    """Return the negative log-likelihood of weighted pairs (Bradley & Terry 1952), in nats.

    score: [R,K]    only differences matter
    wins:  [R,K,K]  how much "i beats j" counts; a tie counts half in both directions
    returns: [R]    summed over each list's pairs
    """
    gap = score[:, :, None] - score[:, None, :]
    return -torch.where(wins > 0, wins * logsigmoid(gap), torch.zeros_like(gap)).sum((1, 2))


def ordered_pairs(score: Tensor, wins: Tensor, tie: float = 1e-4) -> tuple[Tensor, Tensor]:
    """Return how many strict pairs the scores put in the order of `wins`, and how many strict pairs there are: [], [].

    score: [R,K] in nats;  wins: [R,K,K]

    Scores closer than `tie`, which is what rounding makes of equal ones, are in no order: such a pair counts half.
    """
    gap = score[:, :, None] - score[:, None, :]
    strict = wins > wins.transpose(1, 2)
    right = torch.where(gap.abs() <= tie, torch.full_like(gap, 0.5), (gap > 0).to(gap.dtype))
    return torch.where(strict, right, torch.zeros_like(right)).sum(), strict.sum().to(gap.dtype)


def plackett_luce(score: Tensor, choice_mask: Tensor, choice_weight: Tensor, numerator: Tensor) -> Tensor:
    """Return the negative log-likelihood of rankings with ties, in nats (Plackett 1975; Luce 1959).

    It is a sum of weighted choices:

    sum_d weight[d] * logsumexp(score of the set d)  -  sum_i numerator[i] * score[i]

    score:         [R,K]
    choice_mask:   [R,D,K] bool: who was still there to be chosen
    choice_weight: [R,D]   0 for padding
    numerator:     [R,K]   how often i was the one chosen
    returns:       [R]
    """
    absent = torch.finfo(score.dtype).min
    spread = torch.where(choice_mask, score[:, None, :], torch.full_like(score[:, None, :], absent))
    real = choice_weight > 0
    # A row that is all padding would give logsumexp(min..) and a useless gradient, so a harmless 0 is read instead.
    spread = torch.where(real[..., None], spread, torch.zeros_like(spread))
    denominators = torch.where(real, choice_weight * torch.logsumexp(spread, -1), torch.zeros_like(choice_weight))
    chosen = torch.where(numerator > 0, numerator * score, torch.zeros_like(score))
    return denominators.sum(-1) - chosen.sum(-1)
