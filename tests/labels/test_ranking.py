"""Tiers become comparisons, choices and consensus; Plackett-Luce agrees with brute force and with choix."""

from __future__ import annotations

import dataclasses
import itertools
import math
import warnings
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logsumexp

from prefloop.errors import DataError
from prefloop.labels import ranking as module
from prefloop.labels.ranking import (
    check,
    choice_sets,
    comparisons,
    consensus_pairs,
    current,
    mean_rank,
    mid_ranks,
    tiers_from_scores,
)
from prefloop.types import Ranking

THETA = np.array([1.0, 0.5, -0.2, -1.3])
IDS = ("a", "b", "c", "d", "e")


def ranked(*tiers: Sequence[str], who: str = "w1", **more: object) -> Ranking:
    return Ranking("i", who, "quality", tuple(tuple(t) for t in tiers), **more)  # type: ignore[arg-type]


def order_nll(order: Sequence[int], scores: np.ndarray) -> float:
    return sum(float(logsumexp(scores[list(order[i:])]) - scores[order[i]]) for i in range(len(order)))


def brute_force_nll(tiers: Sequence[Sequence[int]], scores: np.ndarray) -> float:
    """Return the mean nll of every order that the tiers leave open."""
    orders = itertools.product(*(itertools.permutations(tier) for tier in tiers))
    return float(np.mean([order_nll([*itertools.chain(*order)], scores) for order in orders]))


def named(tiers: Sequence[Sequence[int]]) -> list[list[str]]:
    return [[IDS[i] for i in tier] for tier in tiers]


@st.composite
def weak_orders(draw: st.DrawFn) -> list[list[int]]:
    k = draw(st.integers(2, 5))
    levels = [draw(st.integers(0, k - 1)) for _ in range(k)]
    return [[i for i in range(k) if levels[i] == level] for level in sorted(set(levels))]


@given(weak_orders(), st.lists(st.floats(-5, 5), min_size=5, max_size=5))
def test_choices_have_the_mean_nll_of_all_orders_the_tiers_leave_open(
    tiers: list[list[int]], scores: list[float]
) -> None:
    s = np.array(scores)[: sum(map(len, tiers))]
    choices = choice_sets(named(tiers), IDS[: len(s)])
    assert choices.nll(s) == pytest.approx(brute_force_nll(tiers, s), abs=1e-9)
    assert choices.weight.sum() == pytest.approx(len(s) - 1)
    assert choices.numerator.sum() == pytest.approx(len(s) - 1)
    assert choices.mask.sum(axis=1).min() >= 2


def test_strict_lists_give_the_golden_plackett_luce_values() -> None:
    assert choice_sets(named([[0], [1], [2], [3]]), IDS[:4]).nll(THETA) == pytest.approx(1.492418431134983, abs=1e-12)
    assert choice_sets(named([[3], [2], [1], [0]]), IDS[:4]).nll(THETA) == pytest.approx(5.817119441457123, abs=1e-12)


def test_the_24_orders_of_four_have_probability_one_together() -> None:
    orders = itertools.permutations(range(4))
    total = sum(math.exp(-choice_sets(named([[i] for i in order]), IDS[:4]).nll(THETA)) for order in orders)
    assert total == pytest.approx(1, abs=1e-12)


def test_500_rankings_have_the_likelihood_choix_gives_them() -> None:
    choix = pytest.importorskip("choix")
    rng = np.random.default_rng(0)
    orders = [[int(i) for i in np.argsort(-(THETA + rng.gumbel(size=4)))] for _ in range(500)]
    ours = -sum(choice_sets(named([[i] for i in order]), IDS[:4]).nll(THETA) for order in orders)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = choix.log_likelihood_rankings(orders, THETA)
    assert ours == pytest.approx(theirs, rel=1e-12)


def test_plackett_luce_of_two_is_bradley_terry_and_a_tie_half_of_each() -> None:
    scores = np.array([0.7, -0.4])
    win, loss = np.logaddexp(0, -1.1), np.logaddexp(0, 1.1)
    assert choice_sets(["a", "b"]).nll(scores) == pytest.approx(win)
    assert choice_sets([["b"], ["a"]], ["a", "b"]).nll(scores) == pytest.approx(loss)
    assert choice_sets([["a", "b"]]).nll(scores) == pytest.approx((win + loss) / 2)


def test_choices_of_a_strict_list_are_its_remainders() -> None:
    choices = choice_sets([["c"], ["a"], ["b"]], ["a", "b", "c"])
    assert sorted(choices.members) == [(0, 1), (0, 1, 2)]
    assert choices.numerator.tolist() == [1, 0, 1]


def test_an_unranked_completion_is_in_no_choice() -> None:
    choices = choice_sets([["a"], ["c"]], ["a", "b", "c"])
    assert not choices.mask[:, 1].any()
    assert choices.numerator[1] == 0
    assert choices.nll(np.array([0.3, np.nan, 0.1])) == pytest.approx(np.logaddexp(0, -0.2))


@pytest.mark.parametrize("tiers", [[], [["a"]]])
def test_fewer_than_two_ranked_is_no_choice(tiers: list[list[str]]) -> None:
    choices = choice_sets(tiers, ["a", "b"])
    assert choices.mask.shape == (0, 2)
    assert choices.nll(np.array([1.0, 2.0])) == 0


@given(st.permutations(["a", "b", "c", "d"]))
def test_the_listing_order_within_a_tier_does_not_matter(tier: list[str]) -> None:
    one, other = choice_sets([["e"], "abcd"], IDS), choice_sets([["e"], tier], IDS)
    assert sorted(zip(one.members, one.weight, strict=True)) == sorted(zip(other.members, other.weight, strict=True))


def test_a_tier_of_nine_averages_its_nine_rotations() -> None:
    ids = [f"c{i}" for i in range(11)]
    scores = np.random.default_rng(1).normal(size=11)
    choices = choice_sets([[ids[0]], ids[1:10], [ids[10]]], ids)
    rotations = [[0, *(1 + (start + i) % 9 for i in range(9)), 10] for start in range(9)]
    assert choices.nll(scores) == pytest.approx(np.mean([order_nll(order, scores) for order in rotations]), abs=1e-9)
    assert len(choices.weight) == 1 + 9 * 8 + 1


def test_rotations_come_near_the_exact_average_where_both_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.random.default_rng(2).normal(size=8)
    ids = [f"c{i}" for i in range(8)]
    exact = choice_sets([ids]).nll(scores)
    monkeypatch.setattr(module, "LARGEST_EXACT_TIER", 7)
    assert choice_sets([ids]).nll(scores) == pytest.approx(exact, rel=0.05)


@given(weak_orders())
def test_one_ranking_weighs_one_in_total(tiers: list[list[int]]) -> None:
    pairs = comparisons(ranked(*named(tiers)))
    k = sum(map(len, tiers))
    assert len(pairs) == k * (k - 1) / 2
    assert sum(pair.weight for pair in pairs) == pytest.approx(1)


def test_comparisons_put_the_better_first_and_halve_ties() -> None:
    pairs = comparisons(ranked(["b"], ["a", "d"]))
    assert {(p.better, p.worse, p.p) for p in pairs} == {("b", "a", 1.0), ("b", "d", 1.0), ("a", "d", 0.5)}


def test_fewer_than_two_ranked_compare_nothing() -> None:
    assert comparisons(ranked()) == []
    assert comparisons(ranked(["a"], unacceptable=("b",))) == []


@pytest.mark.parametrize(
    ("ranking", "message"),
    [
        (ranked(["a"], ["x"]), "no completion has the id 'x'"),
        (ranked(["a"], ["b", "a"]), "'a' is named twice"),
        (ranked(["a"], [], ["b"]), "tier 2 is empty"),
        (ranked(["a"]), "1 of 3 completions ranked"),
        (ranked(), "0 of 3 completions ranked"),
        (ranked(["a"], ["b"], unacceptable=("z",)), "unacceptable: no completion has the id 'z'"),
        (ranked(["a"], ["b"], shown=("a", "a")), "shown: 'a' is named twice"),
        (ranked(["a"], ["b"], ratings={"y": {"help": 1.0}}), "ratings: no completion has the id 'y'"),
    ],
)
def test_an_unusable_ranking_is_refused_with_its_reason_and_place(ranking: Ranking, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        check(ranking, ["a", "b", "c"])
    assert "item i by w1 (quality)" in str(error.value)


@pytest.mark.parametrize(
    "ranking",
    [
        ranked(["a"], ["b"]),
        ranked(["a", "b", "c"]),
        ranked(none_acceptable=True),
        ranked(["a"], unacceptable=("b", "c")),
        ranked(["c"], ["a"], unacceptable=("a",), shown=("c", "b", "a")),
    ],
)
def test_a_usable_ranking_passes(ranking: Ranking) -> None:
    check(ranking, ["a", "b", "c"])


def test_partial_rankings_are_refused_only_where_the_project_does_not_allow_them() -> None:
    check(ranked(["a"], ["b"]), ["a", "b", "c"])
    with pytest.raises(DataError, match="no place for c"):
        check(ranked(["a"], ["b"]), ["a", "b", "c"], allow_partial=False)
    check(ranked(["a"], ["b"], unacceptable=("c",)), ["a", "b", "c"], allow_partial=False)
    check(ranked(none_acceptable=True), ["a", "b", "c"], allow_partial=False)


def test_an_edit_replaces_what_it_edits() -> None:
    first, other = ranked(["a"], ["b"]), ranked(["a", "b"], who="w2")
    edit = dataclasses.replace(ranked(["b"], ["a"]), supersedes=first.id)
    assert current([first, other, edit]) == [other, edit]


def test_mid_ranks_share_the_ranks_a_tier_takes_up() -> None:
    assert mid_ranks([["a"], ["b", "c", "d"], ["e"]]) == {"a": 1, "b": 3, "c": 3, "d": 3, "e": 5}


def test_mean_rank_is_over_the_people_who_placed_the_completion() -> None:
    ranks = mean_rank(
        [ranked(["a"], ["b"], ["c"]), ranked(["b", "a"], ["c"], who="w2"), ranked(["b"], ["a"], who="w3")]
    )
    assert ranks == {"a": pytest.approx(4.5 / 3), "b": pytest.approx(4.5 / 3), "c": 3}


@given(st.lists(st.permutations(["a", "b", "c", "d"]), min_size=1, max_size=4))
def test_consensus_of_complete_rankings_is_the_difference_of_mean_ranks(orders: list[list[str]]) -> None:
    rankings = [ranked(*([id] for id in order), who=f"w{n}") for n, order in enumerate(orders)]
    ranks, consensus = mean_rank(rankings), consensus_pairs(rankings)
    assert len(consensus.pairs) + len(consensus.ties) == 6
    for pair in consensus.pairs:
        assert pair.margin > 0
        assert pair.margin == pytest.approx(ranks[pair.worse] - ranks[pair.better])
    for a, b in consensus.ties:
        assert ranks[a] == pytest.approx(ranks[b])


def test_a_pair_nobody_saw_whole_is_neither_decided_nor_tied() -> None:
    consensus = consensus_pairs([ranked(["a"], ["b"]), ranked(["c"], ["d"], who="w2")])
    assert {(p.better, p.worse) for p in consensus.pairs} == {("a", "b"), ("c", "d")}
    assert consensus.ties == ()


def test_two_people_who_contradict_each_other_leave_a_tie() -> None:
    assert consensus_pairs([ranked(["a"], ["b"]), ranked(["b"], ["a"], who="w2")]).ties == (("a", "b"),)


def test_rankings_of_different_questions_are_not_merged() -> None:
    with pytest.raises(DataError, match="different items or criteria"):
        mean_rank([ranked(["a"], ["b"]), dataclasses.replace(ranked(["a"], ["b"]), criterion="style")])


def test_scores_become_tiers_with_neighbours_tied_below_the_threshold() -> None:
    scores = {"a": 1.0, "b": 3.0, "c": 2.8, "d": 1.0, "e": 2.65}
    assert tiers_from_scores(scores) == (("b",), ("c",), ("e",), ("a", "d"))
    assert tiers_from_scores(scores, 0.25) == (("b", "c", "e"), ("a", "d"))
    assert tiers_from_scores({}) == ()


def test_a_score_that_is_not_a_number_is_refused_by_name() -> None:
    with pytest.raises(DataError, match="score of b is nan"):
        tiers_from_scores({"a": 1.0, "b": math.nan})
