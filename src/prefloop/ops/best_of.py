"""The mathematics of best-of-n: its KL from the policy, what it scores, and majority voting.

Best-of-n draws n answers and keeps the one with the highest reward; equal rewards are told apart by chance. With F the
distribution function of the reward under the policy, an answer whose reward fills the part [a, b] of F is returned with
probability b^n - a^n instead of b - a. So the KL of best-of-n from the policy is

    sum over rewards of (b^n - a^n) ln((b^n - a^n) / (b - a))  <=  ln n - (n-1)/n

and the bound on the right is reached where no two answers have the same reward (Beirami et al. 2024, arXiv 2401.01879).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


def kl_bound(n: int) -> float:
    """Return ln n - (n-1)/n in nats: the KL of best-of-n from its policy where no rewards are equal, else a bound."""
    return math.log(n) - (n - 1) / n


def kl_exact(probabilities: Any, rewards: Any, n: int) -> float:
    """Return the KL of best-of-n from a policy whose answers and their probabilities are all known, in nats.

    probabilities, rewards: [A], one for each answer
    """
    p, r = np.asarray(probabilities, dtype=float), np.asarray(rewards, dtype=float)
    kl, below = 0.0, 0.0
    for level in np.unique(r):
        upto = min(1.0, below + float(p[r == level].sum()))
        kl += _kl_of_part(below, upto, n)
        below = upto
    return kl


def _kl_of_part(a: float, b: float, n: int) -> float:
    """Return what answers of one reward add to the KL: they are the part from a to b of the distribution."""
    taken = b**n - a**n
    return taken * math.log(taken / (b - a)) if taken > 0 else 0.0


def _kl_without_ties(a: float, b: float, n: int) -> float:
    """Return the same where all rewards in that part differ: the integral of w ln w for w = n u^(n-1)."""

    def upto(c: float) -> float:
        return c**n * (math.log(n) + (n - 1) * math.log(c) - (n - 1) / n) if c > 0 else 0.0

    return upto(b) - upto(a)


def kl_estimate(rewards: Any, n: int) -> float:
    """Estimate the KL of best-of-n from samples of one prompt: the bound, less what the ties among them take off.

    rewards: [S] of S >= n samples; equal answers must have equal rewards. A reward that came once counts as one that
    never comes twice, so without ties this is the bound.
    """
    ordered = np.sort(np.asarray(rewards, dtype=float))
    kl = kl_bound(n)
    for level, count in zip(*np.unique(ordered, return_counts=True), strict=True):
        if count > 1:
            a = float(np.searchsorted(ordered, level)) / len(ordered)
            b = a + float(count) / len(ordered)
            kl -= _kl_without_ties(a, b, n) - _kl_of_part(a, b, n)
    return max(0.0, kl)


def chosen_weights(rewards: Any, n: int) -> Numbers:
    """Return how often each of S samples is the best of n that are drawn from them without replacement.  [S]

    rewards: [S], S >= n. Samples of equal reward share what they have together.
    """
    r = np.asarray(rewards, dtype=float)
    if not 1 <= n <= len(r):
        raise ValueError(f"the best of {n} needs at least as many samples, and there are {len(r)}")
    ordered = np.sort(r)
    less, upto = np.searchsorted(ordered, r, "left"), np.searchsorted(ordered, r, "right")
    within = np.zeros(len(r) + 1)  # [c]: the probability that all n are among the c worst samples
    within[len(r)] = 1.0
    for c in range(len(r), n, -1):
        within[c - 1] = within[c] * (c - n) / c
    return np.asarray((within[upto] - within[less]) / (upto - less), dtype=float)


def expected_best(rewards: Any, n: int, values: Any = None) -> float:
    """Return the mean reward of best-of-n, estimated without bias from S >= n samples of one prompt.

    It is the mean over all subsets of n samples.

    values: [S], what is averaged instead of the reward that chooses, as an independent judge's score
    """
    return float(chosen_weights(rewards, n) @ np.asarray(rewards if values is None else values, dtype=float))


def sizes(n: int) -> list[int]:
    """Return 1, 2, 4, ... below n, and n."""
    return [*(2**i for i in range(n.bit_length()) if 2**i < n), n]


def softmax(rewards: Any, temperature: float = 1.0) -> Numbers:
    """Return exp(r / temperature) in units of their sum.  rewards: [S]

    Under the Bradley-Terry model exp(r) is in proportion to how often an answer is preferred.
    """
    r = np.asarray(rewards, dtype=float) / temperature
    e = np.exp(r - r.max())
    return np.asarray(e / e.sum(), dtype=float)


def vote(answers: Sequence[Hashable | None], weights: Any) -> tuple[int, float]:
    """Return the place of the sample that stands for the majority, and the share of the weight that its answer has.

    answers: [S] final answers; None for a sample that has none, which does not vote
    weights: [S] not negative; all alike for the plain majority

    The answer with the most weight wins, the first of them where several have as much. Of the samples with that answer
    it is the one with the most weight, the first where all are alike. Raises ValueError where there is no answer.
    """
    w = np.asarray(weights, dtype=float)
    totals: dict[Hashable, float] = {}
    for answer, weight in zip(answers, w, strict=True):
        if answer is not None:
            totals[answer] = totals.get(answer, 0.0) + float(weight)
    if not totals:
        raise ValueError("no sample has a final answer")
    winner = max(totals, key=lambda answer: totals[answer])
    place = max((i for i, answer in enumerate(answers) if answer == winner), key=lambda i: (w[i], -i))
    total = sum(totals.values())
    return place, totals[winner] / total if total else 1 / len(totals)
