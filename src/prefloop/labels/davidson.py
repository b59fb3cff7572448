"""The likelihood of rankings with ties when people differ, its integral over unseen qualities, and the exact gradient.

Each person a has a discrimination beta_a and a bias gamma_a for what was shown early. The utility of completion c is

    u_c = beta_a q_c + gamma_a early_c,      with q of every completion ~ Normal(0, sigma^2), which is the ridge

The outcomes are read from the utilities in two ways:

    A pair has three outcomes (Davidson 1970): win, loss and tie have the weights exp(u_i), exp(u_j) and
    nu_a exp((u_i + u_j) / 2).
    The tiers of a longer list are chosen one after another, best first. The size of a tier is taken as given; the
    members of it are drawn from the completions that are left, with P(S) proportional to exp(sum of u over S) over
    all sets S of that size. Without ties this is Plackett-Luce; with ties it is Cox's (1972) exact partial likelihood.

The sizes of the tiers of a list are given, because they say how a person uses tiers rather than what is good: some
people tie exactly one pair in every list, and some have five levels. A model of the sizes finds certainty in such
habits: on the E2E rankings it gave a worker who agrees with others on 55 % of pairs the weight 8. A list of more than
`LONGEST` completions is read as several lists, each spread over all of its order, because the sets of twenty are too
many to sum over.

Qualities are integrated out by Laplace's method, item by item. An item has two or three rankings; maximising over the
qualities as well would let every ranking pull the qualities towards itself, and a coin-flipper would look careful.
Pairs of a list are not taken for independent answers either, because their agreement with each other would look like
certainty.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from prefloop.labels.votes import Floats, Ints, Votes

LONGEST = 9  # A list of so many completions has 511 sets.
CELLS = 200_000  # The largest array of a block has so many cells, which fit into a processor's cache.
MOST_STEPS = 200
# The last step is smaller than this, in logits. Newton's method squares the error, so what is left is below 1e-8.
SETTLED = 1e-4


@dataclass(frozen=True)
class People:
    """Holds the model's parameters of everybody. beta, gamma, log_nu: [A]; log_sigma is that of the qualities."""

    beta: Floats
    gamma: Floats
    log_nu: Floats
    log_sigma: float


@dataclass(frozen=True)
class Block:
    """B choices among m completions: which tier came next. S sets could have; the tier itself was listed first.

    left:   [B,m] completions not placed yet.   early: [B,m].   chosen: [B] the set taken.
    share:  [S,m] share @ u is what speaks for each set.   tie: [S] 1 for the tie of a pair, else 0.
    both:   [S,m*m] outer products of the shares.
    cell:   [B,m*m] of the item's matrix, in the flattened matrices of all items.
    """

    left: Ints
    early: Floats
    chosen: Ints
    ranking: Ints
    judge: Ints
    share: Floats
    both: Floats
    tie: Floats
    cell: Ints


@dataclass(frozen=True)
class Settled:
    """Holds the most likely qualities [C] given what is said about people, and the curvature there.

    inverse: the items' K x K posterior covariances, flattened one after another.   log_det, trace: over all items.
    """

    quality: Floats
    inverse: Floats
    log_det: float
    trace: float


@dataclass(frozen=True)
class Evaluation:
    """Holds the log marginal likelihood, up to a constant, and its gradient.

    A part of the gradient that is a sum over rankings is kept for each ranking.
    """

    value: float
    by_ranking: Floats  # [R,3]: beta, gamma and log nu of the person who ranked
    log_sigma: float
    settled: Settled
    mean: Floats  # [C] posterior means of the qualities: the mode, plus the first-order correction for skewness


class Marginal:
    """Computes the marginal likelihood of the votes, of which every item is a matrix of its own.

    It keeps the last qualities as the start of the next search.
    """

    def __init__(self, votes: Votes):
        self.votes = votes
        sizes = np.bincount(votes.item, minlength=len(votes.items)).astype(np.int64)
        self.first = np.cumsum(sizes) - sizes
        self.corner = np.cumsum(sizes * sizes) - sizes * sizes
        self.sizes = sizes
        self.cells = int((sizes * sizes).sum())
        self.runs = list(_runs(sizes, self.first, self.corner))
        self.blocks = [block for stage in _stages(votes) for block in self._blocks(stage)]
        self._start: Floats = np.zeros(len(votes.completions))

    def _blocks(self, stage: Stage) -> Iterator[Block]:
        m = stage.left.shape[1]
        share = _sets(m, stage.tied)
        tie = np.zeros(len(share))
        if stage.pair:  # A tie of the two is Davidson's third outcome.
            share = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
            tie = np.array([0.0, 0.0, 1.0])
        both = np.ascontiguousarray((share[:, :, None] * share[:, None, :]).reshape(len(share), -1))
        rows = max(1, CELLS // len(share))
        for start in range(0, len(stage.left), rows):
            part = slice(start, start + rows)
            left, ranking = stage.left[part], stage.ranking[part]
            item = self.votes.item[left[:, 0]]
            within = left - self.first[item][:, None]
            cell = self.corner[item][:, None, None] + within[:, :, None] * self.sizes[item][:, None, None]
            yield Block(
                left=left,
                early=stage.early[part],
                chosen=np.full(len(left), 2 if stage.pair and stage.tied == 2 else 0),
                ranking=ranking,
                judge=self.votes.person[ranking],
                share=share,
                both=both,
                tie=tie,
                cell=(cell + within[:, None, :]).reshape(len(left), -1),
            )

    def settle(self, people: People) -> Settled:
        """Find the most likely quality of every item at once, by Newton's method.

        The problem is concave, with one optimum.

        An item whose step was too large goes back and takes half of it, because a person of large beta makes the
        likelihood very steep.
        """
        precision, item = float(np.exp(-2 * people.log_sigma)), self.votes.item
        at = quality = self._start
        best, slope, hessian = self._posterior(people, at, precision)
        step, size = self._newton(slope, hessian, precision), np.ones(len(best))
        for _ in range(MOST_STEPS):
            quality = at + size[item] * step
            value, new_slope, new_hessian = self._posterior(people, quality, precision)
            better = value >= best - 1e-9 * (1 + np.abs(best))
            longest = float(np.abs(quality - at).max(initial=0.0))
            best = np.where(better, value, best)
            at = np.where(better[item], quality, at)
            slope = np.where(better[item], new_slope, slope)
            hessian = np.where(np.repeat(better, self.sizes**2), new_hessian, hessian)
            if longest < SETTLED:
                break
            step, size = self._newton(slope, hessian, precision), np.where(better, 1.0, size / 2)
        self._start = at
        return self._curvature(at, hessian, precision)

    def _newton(self, slope: Floats, hessian: Floats, precision: float) -> Floats:
        step = np.empty_like(slope)
        for rows, cells, size in self.runs:
            h = hessian[cells].reshape(-1, size, size) + precision * np.eye(size)
            step[rows] = np.linalg.solve(h, slope[rows].reshape(-1, size, 1)).ravel()
        return step

    def _posterior(self, people: People, quality: Floats, precision: float) -> tuple[Floats, Floats, Floats]:
        """Return each item's log posterior [N], its gradient by the qualities [C], and minus its curvature."""
        item, count = self.votes.item, len(self.sizes)
        value: Floats = -precision / 2 * np.bincount(item, quality * quality, count).astype(np.float64)
        slope: Floats = -precision * quality
        hessian: Floats = np.zeros(self.cells)
        for b in self.blocks:
            beta = people.beta[b.judge][:, None]
            chance, log_chance = _chances(b, people, quality)
            mean = chance @ b.share
            value += np.bincount(item[b.left[:, 0]], np.take_along_axis(log_chance, b.chosen[:, None], 1)[:, 0], count)
            slope += _summed(b.left, beta * (b.share[b.chosen] - mean), len(slope))
            spread = chance @ b.both - (mean[:, :, None] * mean[:, None, :]).reshape(len(mean), -1)
            hessian += _summed(b.cell, beta**2 * spread, len(hessian))
        return value, slope, hessian

    def _curvature(self, quality: Floats, hessian: Floats, precision: float) -> Settled:
        inverse = np.empty(self.cells)
        log_det = trace = 0.0
        for _, cells, size in self.runs:
            h = hessian[cells].reshape(-1, size, size) + precision * np.eye(size)
            inner = np.linalg.inv(h)
            inverse[cells] = inner.ravel()
            log_det += float(np.linalg.slogdet(h)[1].sum())
            trace += float(np.trace(inner, axis1=1, axis2=2).sum())
        return Settled(quality, inverse, log_det, trace)

    def evaluate(self, people: People) -> Evaluation:
        """Return the log of likelihood times prior, integrated over the qualities, with its exact gradient.

        Laplace's method computes the integral.

        A parameter acts directly, and it also changes the curvature and moves the qualities at which the curvature is
        taken.
        """
        s, votes = self.settle(people), self.votes
        precision, squares = float(np.exp(-2 * people.log_sigma)), float(s.quality @ s.quality)
        value = -precision * squares / 2 - len(s.quality) * people.log_sigma - s.log_det / 2
        kept = []
        pull = np.zeros(len(s.quality))  # This is how the curvature pulls on the qualities.
        for b in self.blocks:
            beta = people.beta[b.judge][:, None]
            chance, log_chance = _chances(b, people, s.quality)
            value += float(np.take_along_axis(log_chance, b.chosen[:, None], 1).sum())
            # `far` becomes (share - mean)' covariance (share - mean) of every set of a choice, less its mean over the
            # sets.
            covariance = s.inverse[b.cell]
            toward = (covariance.reshape(*b.left.shape, -1) @ (chance @ b.share)[:, :, None])[:, :, 0]
            far = covariance @ b.both.T - 2 * toward @ b.share.T
            far -= (chance * far).sum(axis=1)[:, None]
            bend = -(beta**2) / 2 * chance * far  # d(-log det / 2) / d log weight of a set
            pull += _summed(b.left, beta * (bend @ b.share), len(pull))
            kept.append((chance, self._trace(covariance, chance, b), bend))
        moved = self._solve(s.inverse, pull)
        by_ranking = np.zeros((len(votes.person), 3))
        for b, (chance, trace, bend) in zip(self.blocks, kept, strict=True):
            beta = people.beta[b.judge]
            slope = -chance
            slope[np.arange(len(chance)), b.chosen] += 1
            drift = moved[b.left] @ b.share.T
            toward = (slope * drift).sum(axis=1)
            drift -= (chance * drift).sum(axis=1)[:, None]
            weight = slope + bend - beta[:, None] * chance * drift  # d value / d log weight of a set
            by_completion = weight @ b.share
            by_beta = (by_completion * s.quality[b.left]).sum(axis=1) - beta * trace + toward
            by_gamma = (by_completion * b.early).sum(axis=1)
            by_nu = weight @ b.tie
            for column, values in enumerate((by_beta, by_gamma, by_nu)):
                by_ranking[:, column] += np.bincount(b.ranking, values, len(by_ranking))
        log_sigma = precision * (squares + s.trace + 2 * float(moved @ s.quality)) - len(s.quality)
        return Evaluation(value, by_ranking, log_sigma, s, s.quality + moved)

    @staticmethod
    def _trace(covariance: Floats, chance: Floats, b: Block) -> Floats:
        """Return [B]: the trace of the covariance times the curvature of each choice."""
        mean = chance @ b.share
        spread = chance @ b.both - (mean[:, :, None] * mean[:, None, :]).reshape(len(mean), -1)
        return np.asarray((covariance * spread).sum(axis=1), dtype=np.float64)

    def _solve(self, inverse: Floats, right: Floats) -> Floats:
        out = np.empty_like(right)
        for rows, cells, size in self.runs:
            inner = inverse[cells].reshape(-1, size, size)
            out[rows] = (inner @ right[rows].reshape(-1, size, 1)).ravel()
        return out


def _chances(b: Block, people: People, quality: Floats) -> tuple[Floats, Floats]:
    """Return the chance of every set [B,S], and its logarithm."""
    utility = people.beta[b.judge][:, None] * quality[b.left] + people.gamma[b.judge][:, None] * b.early
    weight = utility @ b.share.T
    if b.tie.any():
        weight += people.log_nu[b.judge][:, None] * b.tie
    weight -= weight.max(axis=1, keepdims=True)
    chance = np.exp(weight)
    total = chance.sum(axis=1, keepdims=True)
    return chance / total, weight - np.log(total)


def _summed(where: Ints, values: Floats, size: int) -> Floats:
    return np.asarray(np.bincount(where.ravel(), values.ravel(), size), dtype=np.float64)


@dataclass(frozen=True)
class Stage:
    """Holds B choices of the same kind: the first `tied` of the m columns of `left` [B,m] are what was chosen."""

    left: Ints
    early: Floats
    ranking: Ints
    tied: int
    pair: bool


def _sets(m: int, size: int) -> Floats:
    """Return [S,m]: the members of every set of this size; the set of the first `size` of m comes first."""
    sets = list(itertools.combinations(range(m), size))
    share: Floats = np.zeros((len(sets), m))
    for row, members in zip(share, sets, strict=True):
        row[list(members)] = 1.0
    return share


def _stages(votes: Votes) -> Iterator[Stage]:
    """Yield the choices of all rankings, by kind. The last tier of a list is certain, and therefore left out."""
    found: dict[tuple[int, int, bool], list[Ints]] = {}
    for n, rows in votes.by_length():
        parts = -(-n // LONGEST)
        for part in (rows[:, k::parts] for k in range(parts)):
            tier = votes.tier[part]
            for start in range(part.shape[1] - 1):
                begins = np.ones(len(part), dtype=bool) if start == 0 else tier[:, start] != tier[:, start - 1]
                left = part[begins][:, start:]
                tied = (votes.tier[left] == votes.tier[left[:, :1]]).sum(axis=1)
                for size in np.unique(tied).tolist():
                    if n == 2 or size < left.shape[1]:
                        found.setdefault((left.shape[1], size, n == 2), []).append(left[tied == size])
    for (_, size, pair), lefts in sorted(found.items()):
        left = np.concatenate(lefts)
        left = left[np.argsort(votes.ranking[left[:, 0]], kind="stable")]
        yield Stage(votes.completion[left], votes.early[left], votes.ranking[left[:, 0]], size, pair)


def _runs(sizes: Ints, first: Ints, corner: Ints) -> Iterator[tuple[slice, slice, int]]:
    """Yield (completions, matrix cells, completions of an item) for each run of items of one size."""
    edges: Sequence[int] = np.flatnonzero(np.diff(sizes, prepend=-1, append=-1)).tolist()
    for a, b in itertools.pairwise(edges):
        size, count = int(sizes[a]), b - a
        start, cell = int(first[a]), int(corner[a])
        yield slice(start, start + size * count), slice(cell, cell + size * size * count), size
