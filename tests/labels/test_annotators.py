"""People and items are counted rightly, the evidence is in words, and the innocent are left in peace."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import evalica
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau

from prefloop.labels.agreement import kendall_tau, pair_alpha, pairwise_agreement
from prefloop.labels.annotators import AnnotatorReport, PersonReport, annotator_report
from prefloop.labels.ranking import mean_rank
from prefloop.types import Completion, Item, Prompt, Ranking

from .test_agreement import read_items
from .worlds import ADVERSARY_MIX, crowded, letters, one

QUALITY = "quality"


def person(report: AnnotatorReport, name: str) -> PersonReport:
    return next(p for p in report.people if p.annotator == name)


# -- alpha and tau -----------------------------------------------------------------------------------------------------


@given(st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_alpha_is_what_evalica_says_of_pairs_in_both_orientations(seed: int) -> None:
    rng = np.random.default_rng(seed)
    items, signs = [], []
    for n in range(8):
        placed = rng.integers(1, 4, size=(3, 3)).astype(float)  # [people, completions]
        placed[rng.random(placed.shape) < 0.2] = np.nan
        if n == 0:
            placed[:2] = [1, 2, 2]
        said = []
        for who, places in enumerate(placed):
            tiers = [[c for c, p in zip("abc", places, strict=True) if p == place] for place in (1, 2, 3)]
            said.append(one(*("".join(tier) for tier in tiers if tier), who=f"w{who}"))
        items.append(letters(*(r for r in said if r.tiers), id=f"i{n}", of="abc"))
        signs += [np.sign(placed[:, j] - placed[:, i]) for i, j in ((0, 1), (0, 2), (1, 2))]
    ratings = np.array([*signs, *(-s for s in signs)]).T
    theirs = evalica.alpha(pd.DataFrame(ratings), distance="interval").alpha
    assert pair_alpha(items, QUALITY).value == pytest.approx(theirs, abs=1e-9)


def crossed(rows: Sequence[tuple[Ranking, Ranking]]) -> list[Item]:
    return [letters(*pair, id=f"i{n}", of="abc") for n, pair in enumerate(rows)]


def test_without_ties_alpha_and_tau_are_twice_agreement_less_one() -> None:
    rng = np.random.default_rng(0)
    orders = [(one(*rng.permutation(list("abc"))), one(*rng.permutation(list("abc")), who="y")) for _ in range(200)]
    items = crossed(orders)
    share = pairwise_agreement(items, QUALITY).share
    assert share is not None
    assert kendall_tau(items, QUALITY).value == pytest.approx(2 * share - 1)
    assert pair_alpha(items, QUALITY).value == pytest.approx(2 * share - 1, abs=0.005)  # alpha corrects for n.


def test_tau_is_what_scipy_says_and_leaves_out_who_ties_everything() -> None:
    x, y = one("a", "bc", "d"), one("b", "a", "cd", who="y")
    z = one("abcd", who="z")
    found = kendall_tau([letters(x, y, z, of="abcd")], QUALITY)
    assert found.n == 1
    assert found.value == pytest.approx(kendalltau([1, 2.5, 2.5, 4], [2, 1, 3.5, 3.5]).statistic)
    assert kendall_tau([letters(z, of="abcd")], QUALITY).value is None


def test_pair_alpha_does_not_depend_on_how_completions_are_listed() -> None:
    items, _ = crowded(40, 3, 3)
    turned = [replace(item, completions=item.completions[:: 1 - 2 * (n % 2)]) for n, item in enumerate(items)]
    assert pair_alpha(items, QUALITY).value == pytest.approx(pair_alpha(turned, QUALITY).value)
    found = pair_alpha(items, QUALITY)
    assert found.low is not None and found.high is not None and found.value is not None
    assert found.low < found.value < found.high and found.n == 120


def test_alpha_without_overlap_or_order_is_none() -> None:
    assert pair_alpha([letters(one("a", "b"))], QUALITY).value is None
    assert pair_alpha([letters(one("ab"), one("ab", who="y"))], QUALITY).value is None


# -- counts ------------------------------------------------------------------------------------------------------------


def report_of(*items: Item, **gold: list[list[str]]) -> AnnotatorReport:
    return annotator_report(items, QUALITY, gold)


def test_a_person_agrees_with_others_on_the_pairs_both_put_in_an_order() -> None:
    report = report_of(letters(one("a", "b", "c"), one("a", "c", "b", who="y"), one("ab", "c", who="z"), of="abc"))
    x = person(report, "x")
    # For y it is 2 of 3; for z it is 2 of 2, with one tie left out.
    assert (x.agreement.share, x.agreement.n) == (pytest.approx(4 / 5), 5)
    assert person(report, "z").ties == pytest.approx(1 / 3)
    assert report.agreement.share == pytest.approx((2 + 2 + 1) / (3 + 2 + 2))


def test_everybodys_agreement_with_others_is_the_agreement_of_all() -> None:
    items, _ = crowded(80, 4, 3)
    report = annotator_report(items, QUALITY)
    same = sum((p.agreement.share or 0) * p.agreement.n for p in report.people)
    assert same / sum(p.agreement.n for p in report.people) == pytest.approx(report.agreement.share)


def test_nobody_agrees_with_himself() -> None:
    report = report_of(letters(one("a", "b"), Ranking("i", "x", QUALITY, (("a",), ("b",)), ordinal=1), of="ab"))
    assert person(report, "x").agreement.n == 0 and person(report, "x").rankings == 2 and person(report, "x").items == 1


def test_order_shown_length_gold_and_speed_are_counted() -> None:
    texts = {"a": "one two three", "b": "one", "c": "one two"}
    completions = tuple(Completion(id, text) for id, text in texts.items())
    said = Ranking("i", "x", QUALITY, (("b",), ("a",), ("c",)), shown=("c", "b", "a"), duration_s=14.0)
    item = Item("i", Prompt("what is it"), completions, (said,))  # It has 3 + 6 words.
    x = person(annotator_report([item], QUALITY, {"i": [["a"], ["b", "c"]]}), "x")
    # b is before a; not b, but a is before c.
    assert (x.earlier_first.share, x.earlier_first.n) == (pytest.approx(1 / 3), 3)
    assert (x.longer_first.share, x.longer_first.n) == (pytest.approx(1 / 3), 3)  # It is a over c.
    assert (x.gold.share, x.gold.n) == (pytest.approx(1 / 2), 2)  # It is a over c, but not over b.
    assert (x.seconds, x.seconds_per_word) == (14.0, pytest.approx(14 / 9))


def test_a_tie_on_gold_is_half_right() -> None:
    x = person(report_of(letters(one("ab", "c"), of="abc"), i=[["a"], ["b"], ["c"]]), "x")
    assert (x.gold.share, x.gold.n) == (pytest.approx(2.5 / 3), 3)


def test_hard_items_are_those_where_people_differ_not_those_where_all_tie() -> None:
    clear = letters(one("a", "b"), one("a", "b", who="y"), id="clear", of="ab")
    split = letters(one("a", "b"), one("b", "a", who="y"), id="split", of="ab")
    tied = letters(one("ab"), one("ab", who="y"), id="tied", of="ab")
    once = letters(one("a", "b"), id="once", of="ab")
    report = report_of(clear, split, tied, once)
    assert [(h.item, h.agreement) for h in report.hardest] == [("split", 0.0), ("clear", 1.0)]
    assert report.hardest[0].doubt > report.hardest[1].doubt
    assert (report.items, report.overlapping, report.rankings) == (4, 3, 7)


def test_nothing_ranked_is_a_report_too() -> None:
    report = report_of(letters())
    assert (report.people, report.enough, report.rankings) == ((), False, 0)
    json.dumps(report.to_json(), allow_nan=False)


def test_the_report_is_plain_json() -> None:
    items, _ = crowded(30, 3, 2)
    told = json.loads(json.dumps(annotator_report(items, QUALITY).to_json(), allow_nan=False))
    assert {"agreement", "tau", "alpha", "people", "hardest", "enough", "reason", "model"} <= told.keys()
    assert {"weight", "weight_se", "known"} <= told["people"][0]["reliability"].keys()


# -- suspicions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mixture", [{}, ADVERSARY_MIX])
def test_planted_spammers_and_adversaries_are_named_and_nobody_else(mixture: dict[str, float]) -> None:
    for seed in range(2):
        items, _ = crowded(400, 4, 3, seed=seed, **mixture)
        report = annotator_report(items, QUALITY)
        bad = {p.annotator for p in report.people if p.annotator.split("-")[1] in ("coin", "display", "inverted")}
        assert bad and {p.annotator for p in report.suspected} == bad
        for one_person in report.suspected:
            kinds = {e.kind for e in one_person.suspicions}
            # This is evidence, not a verdict.
            assert all(any(ch.isdigit() for ch in e.text) for e in one_person.suspicions)
            if "inverted" in one_person.annotator:
                assert kinds == {"upside down"}
            if "display" in one_person.annotator:
                assert {"order shown", "speed"} <= kinds


def test_gold_alone_shows_a_coin_flipper() -> None:
    items, truth = crowded(240, 4, 1, annotators=4, careful=0.75, weak=0, coin=0.25, display_order=0, inverted=0)
    gold = {}
    for item in items:
        ordered = sorted((c.id for c in item.completions), key=lambda id: -truth[id])
        gold[item.id] = [[ordered[0]], [ordered[-1]]]  # Expected answers are near-certain ones.
    report = annotator_report(items, QUALITY, gold)
    kinds = {p.annotator.split("-")[1]: {e.kind for e in p.suspicions} for p in report.people}
    assert "gold" in kinds["coin"] and "gold" not in kinds["careful"]


def test_who_ties_everything_is_named_where_others_do_not() -> None:
    items, _ = crowded(60, 3, 2, annotators=6, careful=1, weak=0, coin=0, display_order=0, inverted=0)
    lazy = []
    for item in items:
        tied = Ranking(item.id, "lazy", QUALITY, (tuple(c.id for c in item.completions),))
        lazy.append(replace(item, rankings=(*item.rankings, tied)))
    found = person(annotator_report(lazy, QUALITY), "lazy")
    assert [e.kind for e in found.suspicions] == ["ties"]
    assert not found.reliability.known  # Ties in lists say nothing about an order.


# -- real people -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_weights_of_real_people_go_with_how_far_others_agree_with_them(shared_data: Path) -> None:
    items = read_items(shared_data / "e2e_nlg" / "rankings_train.jsonl.gz")
    for criterion, share in (("quality", 3637 / 5436), ("naturalness", 5032 / 8067)):
        report = annotator_report(items, criterion)
        assert report.enough and report.agreement.share == pytest.approx(share)
        known = [p for p in report.people if p.reliability.known and p.agreement.share is not None]
        assert len(known) > 40
        weights, shares = [p.reliability.weight for p in known], [p.agreement.share for p in known]
        assert np.corrcoef(weights, shares)[0, 1] > 0.5  # type: ignore[arg-type]
        assert math.isfinite(sum(weights))


@pytest.mark.slow
def test_the_model_meets_the_published_verdict_more_often_than_the_majority(shared_data: Path) -> None:
    """UKPConvArg1 has five votes a pair, and the verdict that its authors published, from all votes and their own
    model.
    """
    path = shared_data / "ukpconvarg1" / "rankings_train.jsonl.gz"
    items = read_items(path)
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        verdict = {row["id"]: row["gold"] for row in map(json.loads, lines) if row.get("gold") in ("a1", "a2")}
    report = annotator_report(items, "convincing")
    assert report.enough and report.agreement.share == pytest.approx(0.7229, abs=1e-4)
    majority = model = 0.0
    for item in items:
        if item.id in verdict:
            better, worse = sorted((c.id for c in item.completions), key=lambda id: not id.endswith(verdict[item.id]))
            rank = mean_rank(item.rankings)
            majority += 0.5 if rank[better] == rank[worse] else rank[better] < rank[worse]
            model += report.reliability.quality[better] > report.reliability.quality[worse]
    assert len(verdict) == 4526
    assert majority / len(verdict) == pytest.approx(0.954, abs=0.001)
    assert model / len(verdict) > 0.96
