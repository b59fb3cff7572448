"""Computes likelihoods of human preferences over lists of scores.

They are sums, never means; the engine divides, once.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def bradley_terry(score: Tensor, wins: Tensor, margin: float = 0.0) -> Tensor:
    """Return the negative log-likelihood of weighted pairs (Bradley & Terry 1952), in nats.

    score:  [R,K]    only differences matter
    wins:   [R,K,K]  how much "i beats j" counts; a tie counts half in both directions
    margin: by how much the better score must be higher for an even chance (SimPO)
    returns: [R]     summed over each list's pairs
    """
    return over_pairs(-logsigmoid(score[:, :, None] - score[:, None, :] - margin), wins)


def over_pairs(loss: Tensor, wins: Tensor) -> Tensor:
    """Return each list's sum [R] of the losses of "i beats j" [R,K,K], as often as `wins` [R,K,K] counts them."""
    return torch.where(wins != 0, wins * loss, torch.zeros_like(loss)).sum((1, 2))


def smoothed(wins: Tensor, flipped: float) -> Tensor:
    """Return `wins` [R,K,K] as if each had gone the other way with this chance (cDPO, Mitchell 2023)."""
    return (1 - flipped) * wins + flipped * wins.transpose(1, 2)


def unflipped(wins: Tensor, flipped: float) -> Tensor:
    """Return weights [R,K,K], some negative, whose expected loss is that of labels before this share was flipped.

    The share is below 0.5 (robust DPO, Chowdhury 2024).
    """
    return ((1 - flipped) * wins - flipped * wins.transpose(1, 2)) / (1 - 2 * flipped)


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


def davidson(gap: Tensor, tie_rate: float) -> tuple[Tensor, Tensor]:
    """Return the log chances of a win and of a tie [..] at a gap of scores [..] (Davidson 1970).

    tie_rate: the chance of a tie at gap 0
    """
    tie = torch.full_like(gap, math.log(2 * tie_rate / (1 - tie_rate)))
    total = torch.logsumexp(torch.stack([gap / 2, -gap / 2, tie]), 0)
    return gap / 2 - total, tie - total


def rao_kupper(gap: Tensor, tie_rate: float) -> tuple[Tensor, Tensor]:
    """Return the log chances of a win and of a tie [..] at a gap of scores [..] (Rao & Kupper 1967).

    tie_rate: the chance of a tie at gap 0
    """
    nu = (1 + tie_rate) / (1 - tie_rate)
    win, loss = logsigmoid(gap - math.log(nu)), logsigmoid(-gap - math.log(nu))
    return win, math.log(nu**2 - 1) + win + loss


def log_odds(mean_logp: Tensor) -> Tensor:
    """Return log(p / (1 - p)) of p = exp(mean_logp) [..], finite also where every token is certain."""
    below = mean_logp.clamp(max=-torch.finfo(mean_logp.dtype).eps)
    return below - torch.log(-torch.expm1(below))


@torch.no_grad()
def pair_metrics(
    implicit: Tensor, moved: Tensor, total_logp: Tensor, present: Tensor, wins: Tensor
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return what every method that learns from pairs reports, as (sum, weight).

    implicit:   [R,K] reward by which the method orders completions
    moved:      [R,K] the same in nats, which says what is no more than rounding
    total_logp: [R,K] log-probability of each completion
    present:    [R,K] bool;  wins: [R,K,K]
    """
    right, strict = ordered_pairs(moved, wins)
    better = wins > wins.transpose(1, 2)

    def over(pairs: Tensor) -> tuple[Tensor, Tensor]:
        return torch.where(better, pairs, torch.zeros_like(pairs)).sum(), strict

    wide = torch.zeros_like(wins, dtype=total_logp.dtype)
    return {
        "accuracy": (right, strict),
        "implicit_reward": (implicit.sum(), present.to(implicit.dtype).sum()),
        "margin": over(implicit[:, :, None] - implicit[:, None, :]),
        "chosen_logp": over(total_logp[:, :, None] + wide),
        "rejected_logp": over(total_logp[:, None, :] + wide),
    }


@torch.no_grad()
def label_metrics(
    gain: Tensor, implicit: Tensor, total_logp: Tensor, present: Tensor, best: Tensor, worst: Tensor
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return what a method that learns from labels reports, as (sum, weight), by the names of `pair_metrics`.

    gain:  [R,K] implicit reward over the point of reference: it should be above 0 for good answers, below for bad ones
    best, worst: [R,K] how much "i is good" and "i is bad" count
    """
    above = torch.where(gain.abs() <= 1e-4, torch.full_like(gain, 0.5), (gain > 0).to(gain.dtype))
    return {
        "accuracy": ((best * above + worst * (1 - above)).sum(), (best + worst).sum()),
        "implicit_reward": (implicit.sum(), present.to(implicit.dtype).sum()),
        "chosen_logp": ((best * total_logp).sum(), best.sum()),
        "rejected_logp": ((worst * total_logp).sum(), worst.sum()),
    }
