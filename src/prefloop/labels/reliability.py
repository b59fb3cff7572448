"""Estimates whose order follows what others see, and what all of them together say about each pair of completions.

The model is Plackett-Luce with Davidson's ties (`davidson`) and three numbers a person. L-BFGS maximises the integral
over the unseen qualities times a prior on people:

    beta    the weight: how strongly the order follows the shared quality. 1 is a typical careful person, 0 is a
            coin-flipper, and below 0 is somebody who ranks upside down. Its prior is Student-t(3) around 1.
    gamma   the logits by which the place shown first beats the last. Its prior is Student-t(3) around a shared gamma.
    nu      the readiness to tie. The prior of log nu is Normal around a shared log nu, with sd 2.

A log-normal prior on beta around 1 is usual for discriminations, but it lives on the positive numbers and therefore has
no room for an adversary, and none for a coin-flipper either, because zero is infinitely far away. A prior on the whole
line with heavy tails treats the careful people alike (it pulls them together) and lets the few who differ be different.
Its centre at 1 decides between the two mirror images, in which everybody is right or everybody is upside down. Near 1
the two priors are nearly the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import minimize

from prefloop.labels.davidson import Marginal, People
from prefloop.labels.overlap import Overlap, overlap
from prefloop.labels.soft import PairTable, SoftPair, all_pairs
from prefloop.labels.votes import Floats, Tiers, Votes, collect, pairs_of
from prefloop.types import Item

GOLD_BETA = 4.0  # Expected answers follow the quality so strongly: nearly always, but not beyond doubt.
# These are the spreads of people around what they share. For beta, Laplace's evidence is highest at 0.5 on E2E, on
# UKPConvArg1 and on planted crowds alike; thousands of people with ten votes each are predicted best with 0.25 to 0.35.
BETA_SCALE, GAMMA_SCALE, NU_SD = 0.4, 0.3, 2.0
# Beyond these bounds the likelihood has other optima, in which some people's order is the truth without any noise.
# Laplace's approximation, which is good to 0.1 nats an item within the bounds, flatters those optima.
BETA_MOST, SIGMA_RANGE = 2.5, (0.4, 2.2)
FREEDOM = 3.0  # the degrees of freedom of Student's t: two in a hundred lie further out than 4.5 scales
SHARED_GAMMA_SD, SHARED_NU = 0.5, (-1.0, 2.0)
# Gaps of sd 1.4 to 3.0 give the 63 to 77 % agreement that published crowds reach; the sd of quality is 1/sqrt(2) of
# that.
LOG_SIGMA, LOG_SIGMA_SD = float(np.log(1.5)), 0.5
# The search stops below these, in nats for a step and in nats for a standard error.
LEAST_GAIN, LEAST_SLOPE = 1e-3, 0.02


@dataclass(frozen=True)
class AnnotatorReliability:
    """Describes one person, with standard errors.

    weight:    beta times the part of the order that gamma leaves to the quality. Somebody who keeps the order shown has
               weight 0 for any beta, because nothing then tells beta. It is the slope of the chance of a win at equal
               quality, that is the mean of 1 / cosh^2(gamma lead / 2) over the pairs that the person ordered.
    position:  gamma; None where the order shown was never recorded
    rankings:  how many rankings compare something
    shared:    pairs (a list of four is worth 3.8, see `votes`) on items that somebody else ranked too
    tie:       nu; None where nobody ranked pairs
    known:     whether `shared` is enough to tell a coin-flipper from a careful person
    """

    annotator: str
    weight: float
    weight_se: float
    position: float | None
    position_se: float | None
    tie: float | None
    rankings: int
    shared: float
    known: bool


@dataclass(frozen=True)
class Reliability:
    """Holds the fitted model of one criterion.

    enough:  whether people can be told apart; if not, `reason` says why in words
    position, tie: what people share (gamma, nu); None as in `AnnotatorReliability`
    sigma:   the standard deviation of quality, in logits of a typical person
    quality: that of every completion somebody ranked, within its item; 0 is the item's middle
    """

    criterion: str
    annotators: tuple[AnnotatorReliability, ...]
    enough: bool
    reason: str | None
    position: float | None
    tie: float | None
    sigma: float
    quality: Mapping[str, float]
    pairs: PairTable = field(repr=False)

    @property
    def weights(self) -> dict[str, float]:
        """Return {annotator: weight}; every weight is 1 where the overlap is too small to know."""
        return {r.annotator: r.weight if self.enough else 1.0 for r in self.annotators}

    def soft_pairs(self, item_id: str) -> tuple[SoftPair, ...]:
        """Return all pairs of an item's ranked completions; the tuple is empty for an item without rankings."""
        return self.pairs.of(item_id)

    def to_json(self) -> dict[str, Any]:
        """Return everything but the pairs, which grow with the data."""
        shown = {k: v for k, v in self.__dict__.items() if k not in ("pairs", "quality", "annotators")}
        return {**shown, "annotators": [asdict(r) for r in self.annotators]}


def fit_reliability(items: Sequence[Item], criterion: str, gold: Mapping[str, Tiers] | None = None) -> Reliability:
    """Fit people and qualities to the current rankings of one criterion.

    gold: {item id: expected tiers}. They count as one more person, who is nearly infallible, so that people are known
    where nobody else ranked the same item.

    The result is deterministic, and the order of items and rankings does not matter.
    """
    votes = collect(items, criterion, gold)
    seen = overlap(votes)
    marginal = Marginal(votes)
    objective = Objective(marginal)
    vector = _maximise(objective, seen.enough)
    found, u = marginal.evaluate(objective.people(vector)), objective.unpack(vector)
    has_places, has_pairs = bool(votes.early.any()), bool((votes.placed == 2).any())
    return Reliability(
        criterion=criterion,
        annotators=_annotators(votes, seen, u, objective.errors(vector), has_places, has_pairs),
        enough=seen.enough,
        reason=seen.reason,
        position=u.gamma if has_places else None,
        tie=float(np.exp(u.log_nu)) if has_pairs else None,
        sigma=float(np.exp(u.log_sigma)),
        quality=dict(zip(votes.completions, found.mean.tolist(), strict=True)),
        pairs=all_pairs(marginal, found, u.log_nu if has_pairs else -np.inf),
    )


@dataclass(frozen=True)
class Unpacked:
    """Holds the parameter vector by name: [A] numbers for each person; `gamma` and `log_nu` are what people share."""

    betas: Floats
    gammas: Floats
    log_nus: Floats
    gamma: float
    log_nu: float
    log_sigma: float


class Objective:
    """Computes minus the log posterior of people: a function of one vector, with its gradient.

    The vector [3A + 3] holds every beta, every gamma, every log nu, then the shared gamma, shared log nu and log sigma.
    """

    def __init__(self, marginal: Marginal):
        self.marginal, votes = marginal, marginal.votes
        self.count = len(votes.annotators)
        self.of_people = votes.person < self.count  # [R] whether the ranking is a person's, not gold

    def start(self) -> Floats:
        """Return the vector at which everybody is typical, with ties as often as they are."""
        vector: Floats = np.zeros(3 * self.count + 3)
        vector[: self.count] = 1.0
        of_pairs = self.marginal.votes.placed == 2
        pairs = pairs_of(self.marginal.votes)
        ties = pairs.tie[of_pairs[pairs.ranking]]
        tied = float(ties.mean()) if len(ties) else 0.25
        vector[2 * self.count : 3 * self.count + 2] = np.log(2.5 * np.clip(tied / (1 - tied + 0.01), 0.02, 10))
        vector[self.count : 2 * self.count] = vector[3 * self.count] = 0.0
        vector[3 * self.count + 2] = LOG_SIGMA
        return vector

    def unpack(self, vector: Floats) -> Unpacked:
        a = self.count
        shared = vector[3 * a :]
        return Unpacked(
            vector[:a],
            vector[a : 2 * a],
            vector[2 * a : 3 * a],
            float(shared[0]),
            float(shared[1]),
            float(shared[2]),
        )

    def people(self, vector: Floats) -> People:
        """Return the parameters as the likelihood takes them: the last person is gold, if there is gold."""
        u = self.unpack(vector)
        if not self.marginal.votes.has_gold:
            return People(u.betas, u.gammas, u.log_nus, u.log_sigma)
        gold = (np.append(u.betas, GOLD_BETA), np.append(u.gammas, 0.0), np.append(u.log_nus, u.log_nu))
        return People(*gold, u.log_sigma)

    def __call__(self, vector: Floats) -> tuple[float, Floats]:
        u = self.unpack(vector)
        found = self.marginal.evaluate(self.people(vector))
        person = self.marginal.votes.person[self.of_people]
        by_ranking = found.by_ranking[self.of_people]
        people = np.stack([np.bincount(person, by_ranking[:, k], self.count) for k in range(3)])
        found_gold = float(found.by_ranking[~self.of_people, 2].sum())
        beta_prior, beta_slope = _student(u.betas - 1.0, BETA_SCALE)
        gamma_prior, gamma_slope = _student(u.gammas - u.gamma, GAMMA_SCALE)
        nu_gap = u.log_nus - u.log_nu
        shared = np.array([u.gamma / SHARED_GAMMA_SD, (u.log_nu - SHARED_NU[0]) / SHARED_NU[1]])
        sigma_gap = (u.log_sigma - LOG_SIGMA) / LOG_SIGMA_SD
        prior = beta_prior + gamma_prior - float(nu_gap @ nu_gap) / (2 * NU_SD**2)
        prior -= (float(shared @ shared) + sigma_gap**2) / 2
        gradient = np.concatenate(
            [
                people[0] + beta_slope,
                people[1] + gamma_slope,
                people[2] - nu_gap / NU_SD**2,
                [
                    -gamma_slope.sum() - shared[0] / SHARED_GAMMA_SD,
                    nu_gap.sum() / NU_SD**2 - shared[1] / SHARED_NU[1] + found_gold,
                    found.log_sigma - sigma_gap / LOG_SIGMA_SD,
                ],
            ]
        )
        return -(found.value + prior), -gradient

    def information(self, vector: Floats) -> Floats:
        """Return [A,3,3]: the information on each person's beta, gamma and log nu, from gradients and prior.

        It is the spread of the gradients of single rankings: their outer product (Berndt et al. 1974) needs no second
        derivatives, and allows for the dependence between the pairs of a list. What people share is taken as known.
        """
        u = self.unpack(vector)
        person = self.marginal.votes.person[self.of_people]
        g = self.marginal.evaluate(self.people(vector)).by_ranking[self.of_people]
        information: Floats = np.zeros((self.count, 3, 3))
        np.add.at(information, person, g[:, :, None] * g[:, None, :])
        information[:, 0, 0] += _student_precision(u.betas - 1.0, BETA_SCALE)
        information[:, 1, 1] += _student_precision(u.gammas - u.gamma, GAMMA_SCALE)
        information[:, 2, 2] += 1 / NU_SD**2
        return information

    def errors(self, vector: Floats) -> Floats:
        """Return [A,2]: the standard errors of beta and gamma."""
        inverse = np.linalg.inv(self.information(vector))
        return np.asarray(np.sqrt(np.diagonal(inverse, axis1=1, axis2=2)[:, :2]), dtype=np.float64)


def _maximise(objective: Objective, enough: bool) -> Floats:
    """Run L-BFGS from the vector at which everybody is typical.

    Every parameter is in units of its standard error at that start.

    Without enough overlap sigma keeps its published value, because single rankings say nothing about it.
    """
    start, a = objective.start(), objective.count
    if a == 0:
        return start
    own = np.diagonal(objective.information(start), axis1=1, axis2=2)  # [A,3]
    shared = [
        a / GAMMA_SCALE**2 + 1 / SHARED_GAMMA_SD**2,
        a / NU_SD**2 + 1 / SHARED_NU[1] ** 2,
        len(objective.marginal.votes.completions) / 2 + 1 / LOG_SIGMA_SD**2,
    ]
    unit = 1 / np.sqrt(np.concatenate([own.T.ravel(), shared]))

    def scaled(y: Floats) -> tuple[float, Floats]:
        value, slope = objective(start + unit * y)
        return value, slope * unit

    first = abs(scaled(np.zeros_like(start))[0])
    stop = {"maxiter": 500, "ftol": LEAST_GAIN / max(1.0, first), "gtol": LEAST_SLOPE}
    low, high = np.full(len(unit), -np.inf), np.full(len(unit), np.inf)
    low[:a], high[:a] = -BETA_MOST, BETA_MOST
    low[-1], high[-1] = np.log(SIGMA_RANGE) if enough else (LOG_SIGMA, LOG_SIGMA)
    bounds = np.stack([low - start, high - start], axis=1) / unit[:, None]
    found = minimize(scaled, np.zeros_like(start), jac=True, method="L-BFGS-B", bounds=bounds, options=stop)
    return np.asarray(start + unit * found.x, dtype=np.float64)


def _student(gap: Floats, scale: float) -> tuple[float, Floats]:
    """Return the log density of Student's t up to a constant, summed, and its slope."""
    ratio = FREEDOM * scale**2 + gap**2
    return -float((FREEDOM + 1) / 2 * np.log(ratio).sum()), -(FREEDOM + 1) * gap / ratio


def _student_precision(gap: Floats, scale: float) -> Floats:
    """Return the precision, at this gap, of the normals whose mixture is t.

    It is positive everywhere, unlike the curvature.
    """
    return np.asarray((FREEDOM + 1) / (FREEDOM * scale**2 + gap**2), dtype=np.float64)


def _annotators(
    votes: Votes, seen: Overlap, u: Unpacked, errors: Floats, has_places: bool, has_pairs: bool
) -> tuple[AnnotatorReliability, ...]:
    rankings = np.bincount(votes.person, minlength=len(votes.people))
    left = _left_to_quality(votes, u.gammas)
    return tuple(
        AnnotatorReliability(
            annotator=name,
            weight=float(u.betas[k] * left[k]),
            weight_se=float(errors[k, 0] * left[k]),
            position=float(u.gammas[k]) if has_places else None,
            position_se=float(errors[k, 1]) if has_places else None,
            tie=float(np.exp(u.log_nus[k])) if has_pairs else None,
            rankings=int(rankings[k]),
            shared=float(seen.shared[k]),
            known=bool(seen.known[k]),
        )
        for k, name in enumerate(votes.annotators)
    )


def _left_to_quality(votes: Votes, gammas: Floats) -> Floats:
    """Return [A]: the part of the order that is left to the quality, see `AnnotatorReliability.weight`.

    It is 1 for somebody without pairs.
    """
    pairs, count = pairs_of(votes), len(gammas)
    person = votes.person[pairs.ranking]
    mine = ~pairs.tie & (person < count)
    person, lead = person[mine], pairs.lead[mine]
    slope = 1 / np.cosh(np.clip(gammas[person] * lead / 2, -50, 50)) ** 2
    total = np.bincount(person, minlength=count)
    left = np.bincount(person, slope, count) / np.maximum(total, 1)
    return np.asarray(np.where(total > 0, left, 1.0), dtype=np.float64)
