"""Soft labels: the annotator model gives probabilities for pairs of completions, to train on in place of votes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from prefloop.labels.davidson import Evaluation, Marginal
from prefloop.labels.votes import Floats, Ints

NODES = 21  # the number of nodes of the Gauss-Hermite quadrature


@dataclass(frozen=True)
class SoftPair:
    """Holds what a typical person without position bias says about two completions.

    p:           the chance that `better` is preferred, where a tie counts half
    tie:         the chance of a tie; 0 where nobody ranked pairs, because ties in longer lists are taken as given
    gap, gap_se: the difference in quality in logits, and its posterior standard deviation
    """

    better: str
    worse: str
    p: float
    tie: float
    gap: float
    gap_se: float


@dataclass(frozen=True)
class PairTable:
    """Holds every pair of every item, as columns. `rows_of`: {item id: its rows}."""

    rows_of: Mapping[str, slice]
    completions: tuple[str, ...]
    better: Ints
    worse: Ints
    p: Floats
    tie: Floats
    gap: Floats
    gap_se: Floats

    def of(self, item_id: str) -> tuple[SoftPair, ...]:
        rows = range(self.rows_of[item_id].start, self.rows_of[item_id].stop) if item_id in self.rows_of else ()
        return tuple(
            SoftPair(
                self.completions[self.better[k]],
                self.completions[self.worse[k]],
                float(self.p[k]),
                float(self.tie[k]),
                float(self.gap[k]),
                float(self.gap_se[k]),
            )
            for k in rows
        )


def all_pairs(marginal: Marginal, found: Evaluation, log_nu: float) -> PairTable:
    """Return the pairs of every item. log_nu: the readiness to tie a pair, -inf for none."""
    votes, q = marginal.votes, found.mean
    first: list[Ints] = []
    second: list[Ints] = []
    spread: list[Floats] = []
    rows_of: dict[str, slice] = {}
    at = 0
    for rows, cells, size in marginal.runs:
        start = np.arange(rows.start, rows.stop, size)
        inverse = found.settled.inverse[cells].reshape(len(start), size, size)
        i, j = np.triu_indices(size, 1)
        first.append((start[:, None] + i).ravel())
        second.append((start[:, None] + j).ravel())
        variance = inverse[:, i, i] + inverse[:, j, j] - 2 * inverse[:, i, j]
        spread.append(np.sqrt(np.maximum(0.0, variance)).ravel())
        for n in votes.item[start].tolist():
            rows_of[votes.items[n]] = slice(at, at + len(i))
            at += len(i)
    none: Ints = np.zeros(0, dtype=np.int64)
    one, other = np.concatenate([none, *first]), np.concatenate([none, *second])
    swap = q[one] < q[other]
    better, worse = np.where(swap, other, one), np.where(swap, one, other)
    gap, sd = q[better] - q[worse], np.concatenate([np.zeros(0), *spread])
    p, tie = _predicted(gap, sd, log_nu)
    return PairTable(rows_of, votes.completions, better, worse, p, tie, gap, sd)


def _predicted(gap: Floats, spread: Floats, log_nu: float) -> tuple[Floats, Floats]:
    """Return [pairs] chances of a win (ties count half) and of a tie, averaged over the normal posterior of the gap."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    half, tie = np.zeros_like(gap), np.zeros_like(gap)
    for node, weight in zip(nodes, weights / weights.sum(), strict=True):
        d = gap + spread * node
        drawn = expit(log_nu - np.logaddexp(d / 2, -d / 2))  # nu / (e^(d/2) + e^(-d/2) + nu)
        tie += weight * drawn
        half += weight * (drawn / 2 + (1 - drawn) * expit(d))
    return half, tie
