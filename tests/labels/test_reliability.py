"""The annotator model has the right gradient, agrees with other programs, and finds planted people again."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import replace

import choix
import evalica
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import kendalltau

from prefloop.config import Crowd
from prefloop.labels.crowd import simulate
from prefloop.labels.davidson import LONGEST, Marginal, People
from prefloop.labels.ranking import mean_rank
from prefloop.labels.reliability import Objective, Reliability, fit_reliability
from prefloop.labels.votes import collect, pairs_of, worth_in_pairs
from prefloop.training.annotator_weights import weigh_annotators
from prefloop.types import Item, Ranking

from .worlds import ADVERSARY_MIX, attach, blank, crowded, letters, one, planted

QUALITY = "quality"


def marginal_of(items: Sequence[Item], **gold: Sequence[Sequence[str]]) -> Marginal:
    return Marginal(collect(items, QUALITY, gold))


def one_mind(count: int, sigma: float, log_nu: float = -30.0) -> People:
    """Return people who are all typical, without position bias."""
    return People(np.ones(count), np.zeros(count), np.full(count, log_nu), math.log(sigma))


# -- the likelihood ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k, gold", [(2, False), (4, False), (4, True)])
def test_the_gradient_is_that_of_the_value(k: int, gold: bool) -> None:
    items, _ = crowded(25, k, 3, annotators=6, **ADVERSARY_MIX)
    expected = {item.id: [[c.id] for c in item.completions] for item in items[:5]} if gold else None
    objective = Objective(Marginal(collect(items, QUALITY, expected)))
    rng = np.random.default_rng(1)
    at = objective.start() + 0.4 * rng.normal(size=len(objective.start()))
    _, slope = objective(at)
    for k in range(len(at)):
        step = np.zeros(len(at))
        step[k] = 1e-4
        numeric = (objective(at + step)[0] - objective(at - step)[0]) / 2e-4
        assert slope[k] == pytest.approx(numeric, abs=1e-4, rel=1e-4)


def test_a_single_order_says_nothing_about_its_author() -> None:
    """Whatever beta is, each of K! orders is as likely as another, so the marginal must not reward a large one."""
    values = []
    for beta in (0.0, 0.5, 2.0):
        people = People(np.array([beta]), np.zeros(1), np.zeros(1), math.log(1.5))
        values.append(marginal_of([letters(one("a", "b", "c", "d"), of="abcd")]).evaluate(people).value)
    assert values[0] == pytest.approx(-math.log(24), abs=1e-9)
    assert values == pytest.approx([-math.log(24)] * 3, abs=0.25)  # Laplace is not exact,
    assert values == sorted(values, reverse=True)  # and errs against certainty.


def test_laplace_is_near_the_integral() -> None:
    """Three people on one pair are compared with Gauss-Hermite in the gap."""
    item = letters(one("a", "b", who="x"), one("a", "b", who="y"), one("ab", who="z"), of="ab")
    people = People(np.array([1.0, 0.6, 1.2]), np.zeros(3), np.full(3, -0.5), math.log(1.5))
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    gap = nodes * 1.5 * math.sqrt(2)
    nu = math.exp(-0.5)

    def chance(eta: np.ndarray, tie: bool) -> np.ndarray:
        total = np.exp(eta / 2) + np.exp(-eta / 2) + nu
        return (nu if tie else np.exp(eta / 2)) / total

    product = chance(1.0 * gap, False) * chance(0.6 * gap, False) * chance(1.2 * gap, True)
    exact = math.log(float(product @ weights / weights.sum()))
    assert marginal_of([item]).evaluate(people).value == pytest.approx(exact, abs=0.05)


@given(st.integers(0, 10_000), st.integers(2, 5), st.floats(-1, 1.5), st.floats(-1, 1))
@settings(max_examples=30, deadline=None)
def test_the_chances_of_all_tiers_of_given_sizes_sum_to_one(seed: int, k: int, beta: float, gamma: float) -> None:
    """At fixed qualities they do over all orders, so it is a likelihood and not only a score.

    In pairs, ties are outcomes too.
    """
    rng = np.random.default_rng(seed)
    ids = "abcde"[:k]
    shown = "".join(rng.permutation(list(ids)))
    if k == 2:
        answers = [("a", "b"), ("b", "a"), ("ab",)]
    else:
        size = int(rng.integers(1, k))
        tops = itertools.combinations(ids, size)
        answers = [("".join(top), "".join(sorted(set(ids) - set(top)))) for top in tops]
    sigma, total = 1e-4, 0.0
    for answer in answers:  # A tiny sigma holds the qualities at 0, so that only position and ties speak.
        people = People(np.array([beta]), np.array([gamma]), np.array([0.3]), math.log(sigma))
        value = marginal_of([letters(one(*answer, shown=shown), of=ids)]).evaluate(people).value
        total += math.exp(value)
    assert total == pytest.approx(1.0, abs=1e-5)


def test_a_long_list_is_read_in_parts_and_loses_no_completion() -> None:
    ids = "abcdefghijklmnopqrst"
    marginal = marginal_of([letters(one(*ids), of=ids)])
    assert max(block.left.shape[1] for block in marginal.blocks) <= LONGEST
    settled = marginal.settle(one_mind(1, 1.5))
    order = sorted(range(20), key=lambda k: -settled.quality[k])
    assert kendalltau(order, range(20)).statistic > 0.85


# -- the same by others ------------------------------------------------------------------------------------------------


def test_without_ties_pairs_are_what_choix_says() -> None:
    """choix's alpha multiplies the sum of squares itself: 1 / (2 sigma^2), whatever its documentation says."""
    rng = np.random.default_rng(0)
    true = rng.normal(size=8)
    data = []
    for _ in range(150):
        a, b = (int(c) for c in rng.choice(8, size=2, replace=False))
        data.append((a, b) if rng.random() < 1 / (1 + math.exp(true[b] - true[a])) else (b, a))
    rankings = [one("abcdefgh"[a], "abcdefgh"[b], who=f"p{n:03}") for n, (a, b) in enumerate(data)]
    ours = marginal_of([letters(*rankings, of="abcdefgh")]).settle(one_mind(150, 2.0)).quality
    theirs = choix.opt_pairwise(8, data, alpha=1 / 8.0, tol=1e-10)
    assert ours - ours.mean() == pytest.approx(theirs - theirs.mean(), abs=1e-4)


def test_without_ties_lists_are_what_choix_says() -> None:
    rng = np.random.default_rng(1)
    true = rng.normal(size=6)
    data = [tuple(int(c) for c in np.argsort(-(true + rng.gumbel(size=6)))[: 2 + n % 5]) for n in range(80)]
    data = [order for order in data if len(order) > 2]
    rankings = [one(*("abcdef"[c] for c in order), who=f"p{n:03}") for n, order in enumerate(data)]
    # choix takes the ranked ones as everything that was there, as we do with unplaced completions.
    ours = marginal_of([letters(*rankings, of="abcdef")]).settle(one_mind(len(data), 2.0)).quality
    theirs = choix.opt_rankings(6, data, alpha=1 / 8.0, tol=1e-10)
    assert ours - ours.mean() == pytest.approx(theirs - theirs.mean(), abs=1e-4)


def test_with_ties_pairs_are_what_evalica_says() -> None:
    """Newman's (2023) tie model is Davidson's with nu = 2 v. evalica has no prior, so ours is made negligible."""
    rng = np.random.default_rng(2)
    true, nu = rng.normal(size=6), 0.8
    xs, ys, winners, rankings = [], [], [], []
    for n in range(600):
        a, b = (int(c) for c in rng.choice(6, size=2, replace=False))
        chances = np.array([math.exp((true[a] - true[b]) / 2), math.exp((true[b] - true[a]) / 2), nu])
        said = int(rng.choice(3, p=chances / chances.sum()))
        xs.append(a), ys.append(b)
        winners.append((evalica.Winner.X, evalica.Winner.Y, evalica.Winner.Draw)[said])
        i, j = "abcdef"[a], "abcdef"[b]
        rankings.append(one(*((i, j), (j, i), (i + j,))[said], who=f"p{n:03}"))
    found = evalica.newman(xs, ys, winners, tolerance=1e-10, limit=10_000)
    theirs = np.log(found.scores.sort_index().to_numpy())
    marginal = marginal_of([letters(*rankings, of="abcdef")])
    ours = marginal.settle(one_mind(600, 1000.0, math.log(2 * found.v))).quality
    assert ours - ours.mean() == pytest.approx(theirs - theirs.mean(), abs=2e-3)
    votes = pairs_of(marginal.votes)
    gap = ours[votes.better] - ours[votes.worse]

    def likelihood(log_nu: float) -> float:
        top = np.where(votes.tie, log_nu, gap / 2)
        return float((top - np.log(np.exp(gap / 2) + np.exp(-gap / 2) + math.exp(log_nu))).sum())

    assert likelihood(math.log(2 * found.v)) == pytest.approx(max(map(likelihood, np.linspace(-3, 2, 501))), abs=0.02)


# -- planted people ----------------------------------------------------------------------------------------------------


def by_kind(model: Reliability) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for reader in model.annotators:
        found.setdefault(reader.annotator.split("-")[1], []).append(reader.weight)
    return found


def test_an_adversary_is_negative_a_coin_about_zero_and_so_is_who_keeps_the_order_shown() -> None:
    items, _ = crowded(400, 4, 3, seed=1, careful=0.7, weak=0.15, coin=0.05, display_order=0.05, inverted=0.05)
    found = by_kind(fit_reliability(items, QUALITY))
    assert max(found["inverted"]) < -0.4
    assert max(map(abs, found["coin"] + found["display"])) < 0.2
    assert np.mean(found["careful"]) == pytest.approx(1.0, abs=0.15)
    assert 0.35 < np.mean(found["weak"]) < 0.8


def test_planted_weights_are_recovered_in_order_and_within_their_errors() -> None:
    """There are 200 lists of 4, each by 3 of 12 people, who are upside down to twice as clear-eyed."""
    betas = np.array([-1.0, -0.4, 0.0, 0.3, 0.6, 0.8, 1.0, 1.1, 1.3, 1.5, 1.7, 2.0])
    taus, misses = [], []
    for seed in range(3):
        model = fit_reliability(planted(betas.tolist(), 200, 4, 3, seed=seed)[0], QUALITY)
        found, errors = (np.array([getattr(r, name) for r in model.annotators]) for name in ("weight", "weight_se"))
        taus.append(kendalltau(betas, found).statistic)
        scale = float(np.median(found[4:] / betas[4:]))
        misses += ((found - scale * betas) / errors).tolist()
    assert np.mean(taus) > 0.75
    assert np.mean(np.abs(misses) < 2) > 0.8


def test_the_position_and_the_tie_term_are_recovered() -> None:
    items, _ = crowded(
        600, 2, 4, position_bias=1.6, length_bias=0.0, careful=1, weak=0, coin=0, display_order=0, inverted=0
    )
    model = fit_reliability(items, QUALITY)
    # 1.6 (1/1 - 1/2) = 0.8, which is 0.9 in the odds of those pairs that are 0.3 apart and so not tied.
    assert model.position is not None and model.position == pytest.approx(0.9, abs=0.2)
    wide = [r.position for r in model.annotators if r.position is not None]
    assert len(wide) == 20 and max(wide) - min(wide) < 1.5
    chance = pairs_of(collect(items, QUALITY)).tie.mean()
    predicted = np.mean([pair.tie for item in items for pair in model.soft_pairs(item.id)])
    assert predicted == pytest.approx(chance, abs=0.03)


def accuracy(score: dict[str, float], truth: dict[str, float], items: Sequence[Item]) -> float:
    right = []
    for item in items:
        for a, b in itertools.combinations([c.id for c in item.completions], 2):
            gap = (score[a] - score[b]) * (truth[a] - truth[b])
            right.append(0.5 if abs(score[a] - score[b]) < 1e-9 else float(gap > 0))
    return float(np.mean(right))


def test_quality_is_recovered_up_to_the_noise_and_beats_the_majority_among_adversaries() -> None:
    items, truth = crowded(200, 4, 3, seed=3, **ADVERSARY_MIX)
    model = fit_reliability(items, QUALITY)
    majority = {id: -rank for item in items for id, rank in mean_rank(item.rankings).items()}
    assert accuracy(dict(model.quality), truth, items) > accuracy(majority, truth, items) + 0.05


def test_clear_eyed_people_give_the_true_order_back() -> None:
    """Tau above 0.9 at 200 lists x 3 people takes gaps of sd 8; with the usual 2.4 three people cannot know better."""
    items, truth = planted([1.0] * 10, 200, 4, 3, gap_sd=8.0)
    assert 2 * accuracy(dict(fit_reliability(items, QUALITY).quality), truth, items) - 1 > 0.85


# -- soft pairs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("overlap", [1, 3])
def test_soft_pairs_are_calibrated_on_the_truth(overlap: int) -> None:
    items, truth = crowded(800, 2, overlap, seed=5, length_bias=0.0, tie_threshold=0.0)
    model = fit_reliability(items, QUALITY)
    said, true = [], []
    for item in items:
        (pair,) = model.soft_pairs(item.id)
        said.append(pair.p)
        true.append(1 / (1 + math.exp(truth[pair.worse] - truth[pair.better])))
    assert min(said) >= 0.5
    for low, high in ((0.5, 0.65), (0.65, 0.8), (0.8, 1.0)):
        here = [(s, t) for s, t in zip(said, true, strict=True) if low <= s < high]
        if len(here) < 100:  # One vote is never that sure.
            continue
        assert np.mean([s for s, _ in here]) == pytest.approx(np.mean([t for _, t in here]), abs=0.04)


def test_soft_pairs_name_each_pair_once_better_first() -> None:
    model = fit_reliability([letters(one("a", "bc"), one("b", "a", "c", who="y"))], QUALITY)
    assert {frozenset((p.better, p.worse)) for p in model.soft_pairs("i")} == {
        frozenset("ab"),
        frozenset("ac"),
        frozenset("bc"),
    }
    assert all(p.gap >= 0 and 0.5 <= p.p <= 1 and p.tie == 0 for p in model.soft_pairs("i"))
    assert model.soft_pairs("unknown") == ()


# -- what may not matter -----------------------------------------------------------------------------------------------


def test_the_order_of_items_and_rankings_does_not_matter() -> None:
    items, _ = crowded(60, 3, 3)
    turned = [letters_reversed(item) for item in reversed(items)]
    one_way, other = fit_reliability(items, QUALITY), fit_reliability(turned, QUALITY)
    for a, b in zip(one_way.annotators, other.annotators, strict=True):
        assert a.annotator == b.annotator and a.weight == pytest.approx(b.weight, abs=0.02)


def letters_reversed(item: Item) -> Item:
    return replace(item, rankings=item.rankings[::-1], completions=item.completions[::-1])


def test_edits_replace_and_adjudications_are_nobodys_vote() -> None:
    first = Ranking("i", "x", QUALITY, (("a",), ("b",)), id="r1")
    edit = Ranking("i", "x", QUALITY, (("b",), ("a",)), id="r2", supersedes="r1")
    verdict = Ranking("i", "boss", QUALITY, (("a",), ("b",)), metadata={"adjudication": True})
    votes = collect([letters(first, edit, verdict, of="ab")], QUALITY)
    assert votes.people == ("x",) and len(votes.person) == 1
    assert votes.completions[votes.completion[0]] == "b"


def test_no_rankings_at_all_are_an_answer_too() -> None:
    model = fit_reliability([letters()], QUALITY)
    assert (model.annotators, model.enough, model.reason) == ((), False, "nobody has ranked anything yet")


# -- knowing that one does not know ------------------------------------------------------------------------------------


def ranked(plan: dict[str, list[int]]) -> list[Item]:
    """Return items ranked a over b over c by these people: {name: item numbers}."""
    items, _ = blank(1 + max(n for numbers in plan.values() for n in numbers), 3)
    said = [
        Ranking(items[n].id, name, QUALITY, tuple((c.id,) for c in items[n].completions))
        for name, numbers in plan.items()
        for n in numbers
    ]
    return attach(items, said)


def test_overlap_one_is_not_enough_to_know_anybody() -> None:
    model = fit_reliability(ranked({"x": [0, 1, 2], "y": [3, 4], "z": [5, 6]}), QUALITY)
    assert not model.enough and model.reason is not None and "one person only" in model.reason
    assert set(model.weights.values()) == {1.0} and not any(r.known for r in model.annotators)


def test_two_people_are_not_enough_to_know_which_is_right() -> None:
    model = fit_reliability(ranked({"x": list(range(30)), "y": list(range(30))}), QUALITY)
    assert not model.enough and model.reason is not None and "third" in model.reason


def test_a_few_shared_items_are_not_enough() -> None:
    model = fit_reliability(ranked({name: [0, 1, 2] for name in "xyz"}), QUALITY)
    assert not model.enough and model.reason is not None and "7 independent comparisons" in model.reason


def test_groups_that_never_meet_cannot_be_compared() -> None:
    plan = {name: list(range(20)) for name in "abc"} | {name: list(range(20, 40)) for name in "xyz"}
    model = fit_reliability(ranked(plan), QUALITY)
    assert not model.enough and model.reason is not None and "2 groups" in model.reason
    assert fit_reliability(ranked(plan | {"a": list(range(25))}), QUALITY).enough


def test_gold_makes_people_known_who_share_nothing() -> None:
    items, truth = crowded(
        120, 3, 1, annotators=4, careful=0.75, weak=0, coin=0.25, display_order=0, inverted=0, quality_sd=5
    )
    gold = {i.id: [[id] for id in sorted((c.id for c in i.completions), key=lambda id: -truth[id])] for i in items}
    model = fit_reliability(items, QUALITY, gold)
    assert model.enough and all(r.known for r in model.annotators)
    found = by_kind(model)
    assert max(map(abs, found["coin"])) < 0.35 and min(found["careful"]) > 0.5
    assert not fit_reliability(items, QUALITY).enough


def test_a_list_is_worth_as_many_pairs_as_it_informs() -> None:
    assert worth_in_pairs(2) == pytest.approx(1)
    assert worth_in_pairs(4) == pytest.approx(2 * (4 - 25 / 12))


@pytest.mark.slow
def test_ten_thousand_lists_take_seconds() -> None:
    items, _ = crowded(3400, 4, 3, annotators=100)
    start = time.process_time()
    fit_reliability(items, QUALITY)
    assert time.process_time() - start < 30


@pytest.mark.slow
def test_a_reward_model_learns_more_from_weighted_than_from_merged_rankings() -> None:
    """A linear reward on features is fitted to soft votes, weighted votes and the majority, and judged by the truth."""
    items, _ = blank(500, 4, 9)
    rng = np.random.default_rng(9)
    features = {c.id: rng.normal(size=12) for item in items for c in item.completions}
    direction = rng.normal(size=12)
    quality = {id: float(x @ direction) for id, x in features.items()}
    ranked_items = attach(items, simulate(items, quality, Crowd(overlap=3, **ADVERSARY_MIX), 9))
    right = {}
    for mode in ("all", "weighted", "majority"):
        weighed = weigh_annotators(ranked_items[:400], QUALITY, mode, {})
        rows, weights = [], []
        for item in weighed.items:
            for r in item.rankings:
                votes = pairs_of(collect([letters_of(item, r)], QUALITY))
                ids = collect([letters_of(item, r)], QUALITY).completions
                for b, w, tie in zip(votes.better, votes.worse, votes.tie, strict=True):
                    if not tie:
                        rows.append(features[ids[b]] - features[ids[w]])
                        weights.append(weighed.weights.get(r.id, 1.0))
        x, w = np.array(rows), np.array(weights)
        fit = minimize(lambda v, x=x, w=w: float(w @ np.logaddexp(0, -x @ v)) + 0.5 * float(v @ v), np.zeros(12)).x
        right[mode] = accuracy({id: float(f @ fit) for id, f in features.items()}, quality, ranked_items[400:])
    assert right["weighted"] > right["majority"] and right["weighted"] > right["all"]


def letters_of(item: Item, ranking: Ranking) -> Item:
    return replace(item, rankings=(ranking,))
