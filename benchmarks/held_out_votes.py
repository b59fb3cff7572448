"""Measures how well left-out votes are predicted: by the majority, by a model of alike people, by the annotator model.

    python benchmarks/held_out_votes.py rankings.jsonl.gz --criterion quality

Each fold leaves out another person's vote on every item that two ranked at least. The untied pairs of the votes left
out are scored: a tie in a list is taken as given by the model, so it predicts none. Where items are pairs, the three
outcomes are scored too. With --spoil, people who gave that share of the rankings are replaced by coin-flippers and by
people who rank upside down, half of each, and the votes of the others are scored.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from prefloop import exchange
from prefloop.labels.annotators import annotator_report
from prefloop.labels.davidson import Marginal, People
from prefloop.labels.ranking import independent
from prefloop.labels.reliability import (
    BETA_SCALE,
    LOG_SIGMA,
    LOG_SIGMA_SD,
    SHARED_NU,
    SIGMA_RANGE,
    Reliability,
    fit_reliability,
)
from prefloop.labels.soft import PairTable, all_pairs
from prefloop.labels.votes import collect
from prefloop.types import Item, Ranking

Floats = NDArray[np.float64]
# They are added to each side of a majority; the best in hindsight is taken.
PSEUDO_COUNTS = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0)
RESAMPLES = 2000
NODES, NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(9)


@dataclass(frozen=True)
class Vote:
    """Holds one pair of a ranking that was left out. `tie`: then `better` is only the first of the two."""

    item: int
    who: str
    better: str
    worse: str
    tie: bool


@dataclass(frozen=True)
class Guess:
    """Holds [V] numbers of each vote: the chances of `better` given an order and of a tie; `right` is 1, or 0.5 for
    no opinion.
    """

    win: Floats
    tie: Floats
    right: Floats


def split(items: Sequence[Item], criterion: str, fold: int, seed: int) -> tuple[list[Item], list[Vote]]:
    """Return the items without one vote each, and those votes' pairs. Items are shuffled alike for every fold."""
    kept, left = [], []
    for n, item in enumerate(items):
        said = [r for r in independent(item.rankings) if r.criterion == criterion]
        order = np.random.default_rng((seed, n)).permutation(len(said))
        out = said[order[fold]] if len(said) >= 2 and fold < len(said) else None
        kept.append(replace(item, rankings=tuple(r for r in said if r is not out)))
        left += votes_of(n, out) if out else []
    return kept, left


def votes_of(item: int, ranking: Ranking) -> list[Vote]:
    placed = [(id, tier) for tier, ids in enumerate(ranking.tiers) for id in ids]
    return [Vote(item, ranking.annotator, a, b, s == t) for (a, s), (b, t) in itertools.combinations(placed, 2)]


def by_majority(items: Sequence[Item], votes: Sequence[Vote], pseudo: float) -> Guess:
    """Return the shares of the votes that are left, with pseudo counts; a tie is half a vote for each."""
    counts: Counter[tuple[str, str]] = Counter()
    ties: Counter[frozenset[str]] = Counter()
    for n, item in enumerate(items):
        for vote in (v for r in item.rankings for v in votes_of(n, r)):
            if vote.tie:
                ties[frozenset((vote.better, vote.worse))] += 1
            else:
                counts[vote.better, vote.worse] += 1
    tied = sum(ties.values()) / max(1, sum(ties.values()) + sum(counts.values()))
    won, lost = (np.array([counts[pair] for pair in pairs], float) for pairs in (_pairs(votes), _pairs(votes, True)))
    drawn = np.array([ties[frozenset(pair)] for pair in _pairs(votes)], float)
    total = won + lost + drawn
    return Guess(
        win=(won + drawn / 2 + pseudo) / (total + 2 * pseudo),
        tie=(drawn + 2 * pseudo * tied) / (total + 2 * pseudo),
        right=np.where(won == lost, 0.5, won > lost),
    )


def _pairs(votes: Sequence[Vote], turned: bool = False) -> list[tuple[str, str]]:
    return [(v.worse, v.better) if turned else (v.better, v.worse) for v in votes]


def by_model(table: PairTable, votes: Sequence[Vote], weight: Floats, weight_se: Floats, log_nu: Floats) -> Guess:
    """Return the prediction for annotators of these weights and readiness to tie (all [V]).

    It is averaged over gap and weight, both normal.
    """
    names = table.completions
    known: dict[tuple[str, str], tuple[float, float]] = {}
    for b, w, gap, sd in zip(table.better.tolist(), table.worse.tolist(), table.gap, table.gap_se, strict=True):
        known[names[b], names[w]], known[names[w], names[b]] = (gap, sd), (-gap, sd)
    gap, sd = np.array([known.get((v.better, v.worse), (0.0, 1.0)) for v in votes]).reshape(-1, 2).T
    win, tie = np.zeros(len(votes)), np.zeros(len(votes))
    for (x, y), (a, b) in zip(
        itertools.product(NODES, NODES), itertools.product(NODE_WEIGHTS, NODE_WEIGHTS), strict=True
    ):
        d = (weight + weight_se * x) * (gap + sd * y)
        share = a * b / NODE_WEIGHTS.sum() ** 2
        drawn = expit(log_nu - np.logaddexp(d / 2, -d / 2))
        tie += share * drawn
        win += share * (1 - drawn) * expit(d)
    win /= np.maximum(1 - tie, 1e-12)
    return Guess(win, tie, np.where(np.abs(win - 0.5) < 1e-9, 0.5, win > 0.5))


def alike(items: Sequence[Item], criterion: str) -> tuple[PairTable, float]:
    """Fit the same likelihood with everybody's weight 1, no position bias and one nu; sigma and nu are fitted."""
    votes = collect(items, criterion)
    marginal, count = Marginal(votes), len(votes.people)

    def people(at: Floats) -> People:
        return People(np.ones(count), np.zeros(count), np.full(count, at[0]), float(at[1]))

    def loss(at: Floats) -> tuple[float, Floats]:
        found = marginal.evaluate(people(at))
        nu, sigma = (at[0] - SHARED_NU[0]) / SHARED_NU[1], (at[1] - LOG_SIGMA) / LOG_SIGMA_SD
        slope = [found.by_ranking[:, 2].sum() - nu / SHARED_NU[1], found.log_sigma - sigma / LOG_SIGMA_SD]
        return -(found.value - (nu**2 + sigma**2) / 2), -np.array(slope)

    bounds = [(None, None), (float(np.log(SIGMA_RANGE[0])), float(np.log(SIGMA_RANGE[1])))]
    at = minimize(loss, np.array([SHARED_NU[0], LOG_SIGMA]), jac=True, method="L-BFGS-B", bounds=bounds).x
    return all_pairs(marginal, marginal.evaluate(people(at)), float(at[0])), float(at[0])


def guesses(items: Sequence[Item], votes: Sequence[Vote], criterion: str) -> dict[str, Guess]:
    """Return what each predictor, having seen `items`, says of the votes."""
    said = {f"majority +{pseudo}": by_majority(items, votes, pseudo) for pseudo in PSEUDO_COUNTS}
    one = np.ones(len(votes))
    table, log_nu = alike(items, criterion)
    said["alike"] = by_model(table, votes, one, 0 * one, log_nu * one)
    model = fit_reliability(items, criterion)
    weights = {r.annotator: (r.weight, r.weight_se) for r in model.annotators}
    ties = {r.annotator: r.tie for r in model.annotators if r.tie is not None}
    shared = np.log(model.tie) if model.tie is not None else -30.0
    own, own_se = np.array([weights.get(v.who, (1.0, BETA_SCALE)) for v in votes]).reshape(-1, 2).T
    own_nu = np.array([np.log(ties[v.who]) if v.who in ties else shared for v in votes])
    said["typical reader"] = by_model(model.pairs, votes, one, 0 * one, shared * one)
    said["own weight"] = by_model(model.pairs, votes, own, own_se, own_nu)
    return said


def spoil(items: Sequence[Item], criterion: str, share: float, seed: int) -> tuple[list[Item], dict[str, str]]:
    """Make people who gave `share` of the rankings coin-flippers and upside-down by turns; return {their name:
    which}.
    """
    rng = np.random.default_rng(seed)
    given = Counter(r.annotator for item in items for r in item.rankings if r.criterion == criterion)
    spoiled: dict[str, str] = {}
    for name in rng.permutation(sorted(given)).tolist():
        if sum(given[who] for who in spoiled) >= share * sum(given.values()):
            break
        spoiled[name] = ("coin", "inverted")[len(spoiled) % 2]

    def worse(r: Ranking) -> Ranking:
        if spoiled.get(r.annotator) == "inverted":
            return replace(r, tiers=r.tiers[::-1])
        if r.annotator not in spoiled:
            return r
        drawn = iter(rng.permutation([id for tier in r.tiers for id in tier]).tolist())
        return replace(r, tiers=tuple(tuple(next(drawn) for _ in tier) for tier in r.tiers))

    return [replace(item, rankings=tuple(map(worse, item.rankings))) for item in items], spoiled


def scores(guess: Guess, votes: Sequence[Vote], outcomes: bool) -> Floats:
    """Return [V,3]: right, log loss of the order, log loss of the outcome (0 where not asked for)."""
    tie = np.array([v.tie for v in votes])
    win, drawn = np.clip(guess.win, 1e-9, 1), np.clip(guess.tie, 1e-9, 1 - 1e-9)
    of_three = -np.where(tie, np.log(drawn), np.log1p(-drawn) + np.log(win)) if outcomes else np.zeros(len(votes))
    return np.stack([np.where(tie, 0, guess.right), np.where(tie, 0, -np.log(win)), of_three], axis=1)


def report(name: str, sums: Mapping[str, Floats], weight: Floats) -> None:
    """Print the figures, with a bootstrap over items.

    sums: {predictor: [items, 3]};  weight: [items, 3] how many each is of
    """
    rng = np.random.default_rng(0)
    times = rng.multinomial(len(weight), np.full(len(weight), 1 / len(weight)), size=RESAMPLES)
    drawn = {who: (times @ rows) / np.maximum(times @ weight, 1) for who, rows in sums.items()}
    value = {who: rows.sum(axis=0) / np.maximum(weight.sum(axis=0), 1) for who, rows in sums.items()}
    best = {k: min((w for w in sums if w.startswith("majority")), key=lambda w, k=k: value[w][k]) for k in (1, 2)}
    outcomes = bool(weight[:, 2].any())
    print(f"{name}: {weight[:, 0].sum():.0f} untied pairs of {len(weight)} items")
    print("| | right | log loss | log loss of win, loss, tie |\n|---|---|---|---|")
    rows = {"majority": (best[1], best[1], best[2])} | {
        who: (who, who, who) for who in sums if not who.startswith("majority")
    }
    for who, (a, b, c) in rows.items():
        print(f"| {who} | {value[a][0]:.4f} | {value[b][1]:.4f} | {f'{value[c][2]:.4f}' if outcomes else '-'} |")
    for other in ("majority", "alike"):
        told = []
        for k, column in enumerate(rows[other]):
            low, high = np.quantile(drawn["own weight"][:, k] - drawn[column][:, k], [0.025, 0.975])
            told.append(f"{value['own weight'][k] - value[column][k]:+.4f} ({low:+.4f} to {high:+.4f})")
        print(f"| own weight - {other} | {told[0]} | {told[1]} | {told[2] if outcomes else '-'} |")
    print(f"(pseudo-count of the majority, best in hindsight: {best[1].split('+')[1]})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--criterion", required=True)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--spoil", type=float, default=0.0, help="share of the rankings")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    items = [row for row in exchange.read(asked.data) if isinstance(row, Item)]
    items = [item for item in items if any(r.criterion == asked.criterion for r in item.rankings)]
    items, spoiled = spoil(items, asked.criterion, asked.spoil, asked.seed)
    outcomes = all(len(item.completions) == 2 for item in items)
    sums: dict[str, Floats] = {}
    weight: Floats = np.zeros((len(items), 3))
    start = time.perf_counter()
    for fold in range(asked.folds):
        kept, votes = split(items, asked.criterion, fold, asked.seed)
        votes = [v for v in votes if v.who not in spoiled and (outcomes or not v.tie)]
        where = np.array([v.item for v in votes], dtype=np.int64)
        untied = np.array([not v.tie for v in votes], float)
        np.add.at(weight, where, np.stack([untied, untied, np.full(len(votes), float(outcomes))], axis=1))
        for who, guess in guesses(kept, votes, asked.criterion).items():
            np.add.at(sums.setdefault(who, np.zeros((len(items), 3))), where, scores(guess, votes, outcomes))
    report(f"{asked.data.parent.name}, {asked.criterion}", sums, weight)
    if spoiled:
        found(fit_reliability(items, asked.criterion), spoiled)
        suspects = {p.annotator for p in annotator_report(items, asked.criterion).suspected}
        known = {r.annotator for r in fit_reliability(items, asked.criterion).annotators if r.known}
        for kind in ("coin", "inverted"):
            these = {name for name, which in spoiled.items() if which == kind} & known
            print(f"{kind}: {len(these & suspects)} of {len(these)} known ones suspected")
        rest = known - set(spoiled)
        print(f"others: {len(rest & suspects)} of {len(rest)} known ones suspected")
    print(f"{time.perf_counter() - start:.0f} s")


def found(model: Reliability, spoiled: Mapping[str, str]) -> None:
    for kind in ("coin", "inverted", "untouched"):
        weights = [r.weight for r in model.annotators if r.known and spoiled.get(r.annotator, "untouched") == kind]
        print(f"weights of {len(weights)} known {kind}: median {np.median(weights):.2f}" if weights else f"no {kind}")


if __name__ == "__main__":
    main()
