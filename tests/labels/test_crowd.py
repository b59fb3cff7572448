"""Simulated annotators have the published agreement, biases and mixture, and are deterministic."""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from collections import Counter

import numpy as np
import pytest

from prefloop.config import Crowd
from prefloop.errors import ConfigError, DataError
from prefloop.labels.agreement import pairwise_agreement
from prefloop.labels.crowd import make_crowd, median_seconds, quality_scale, simulate
from prefloop.labels.ranking import check
from prefloop.types import Completion, Item, Prompt, Ranking

CAREFUL = {"careful": 1.0, "weak": 0.0, "coin": 0.0, "display_order": 0.0, "inverted": 0.0}
UNBIASED = {"length_bias": 0.0, "position_bias": 0.0, "tie_threshold": 0.0}


def world(n: int, k: int = 2, length_sd: float = 0.0, seed: int = 0) -> tuple[list[Item], dict[str, float]]:
    """Return n items of k completions: normal quality, independent log-normal lengths (`length_sd` of the log
    ratio).
    """
    rng = np.random.default_rng(seed)
    items, quality = [], {}
    for i in range(n):
        characters = np.maximum(12, 300 * np.exp(rng.normal(size=k) * length_sd / math.sqrt(2))).astype(int)
        completions = tuple(Completion(f"i{i}:c{j}", f"{i}/{j}".ljust(c, ".")) for j, c in enumerate(characters))
        items.append(Item(f"i{i}", Prompt(f"p{i}"), completions))
        quality.update({c.id: float(rng.normal()) for c in completions})
    return items, quality


def answered(items: list[Item], rankings: list[Ranking]) -> list[Item]:
    return [dataclasses.replace(i, rankings=tuple(r for r in rankings if r.item_id == i.id)) for i in items]


def only(kind: str, **settings: object) -> Crowd:
    return Crowd(**{**CAREFUL, "careful": 0.0, kind: 1.0, **settings})  # type: ignore[arg-type]


def preferred(items: list[Item], rankings: list[Ranking]) -> tuple[float, float]:
    """Return P(prefer the longer) and P(prefer the one shown first) over untied pairs."""
    length = {c.id: len(c.text) for item in items for c in item.completions}
    longer, first = [], []
    for ranking in rankings:
        tier = {id: n for n, ids in enumerate(ranking.tiers) for id in ids}
        for a, b in itertools.combinations(ranking.shown, 2):
            if tier[a] == tier[b]:
                continue
            first.append(tier[a] < tier[b])
            if length[a] != length[b]:
                longer.append((tier[a] < tier[b]) == (length[a] > length[b]))
    return statistics.fmean(longer or [0.5]), statistics.fmean(first)


@pytest.mark.parametrize(
    ("quality_sd", "agreement", "accuracy"), [(1.36, 0.63, 0.72), (2.4, 0.73, 0.80), (3.0, 0.77, 0.83)]
)
def test_careful_annotators_agree_as_the_table_says(quality_sd: float, agreement: float, accuracy: float) -> None:
    items, quality = world(4000)
    rankings = simulate(items, quality, only("careful", quality_sd=quality_sd, overlap=2, **UNBIASED), seed=1)
    by_item: dict[str, list[Ranking]] = {}
    for ranking in rankings:
        by_item.setdefault(ranking.item_id, []).append(ranking)
    found = pairwise_agreement([dataclasses.replace(i, rankings=tuple(by_item[i.id])) for i in items])
    assert found.share == pytest.approx(agreement, abs=3 * math.sqrt(0.25 / 4000))
    right = statistics.fmean(quality[r.tiers[0][0]] > quality[r.tiers[1][0]] for r in rankings)
    assert right == pytest.approx(accuracy, abs=0.015)


def test_pairs_of_a_longer_list_agree_as_pairs_alone_do() -> None:
    items, quality = world(600, k=4)
    rankings = simulate(items, quality, only("careful", overlap=2, **UNBIASED), seed=1)
    assert pairwise_agreement(answered(items, rankings)).share == pytest.approx(0.73, abs=0.025)


def test_default_biases_are_the_documented_ones() -> None:
    items, quality = world(5000, length_sd=1.2)
    longer, first = preferred(items, simulate(items, quality, Crowd(annotators=100), seed=0))
    assert longer == pytest.approx(0.56, abs=0.02)
    assert first == pytest.approx(0.52, abs=0.02)


def test_a_length_bias_of_1_2_prefers_the_longer_as_often_as_people_do() -> None:
    items, quality = world(5000, length_sd=1.2)
    longer, _ = preferred(items, simulate(items, quality, Crowd(annotators=100, length_bias=1.2), seed=0))
    assert longer == pytest.approx(0.64, abs=0.02)


def test_a_position_bias_favours_the_first_and_hardly_tells_the_last_two_apart() -> None:
    items, quality = world(1500, k=4)
    rankings = simulate(items, quality, only("careful", length_bias=0.0, position_bias=3.0, tie_threshold=0.0), 0)
    order = [[id for tier in r.tiers for id in tier] for r in rankings]
    first, late = (
        statistics.fmean(o.index(r.shown[i]) < o.index(r.shown[i + 1]) for r, o in zip(rankings, order, strict=True))
        for i in (0, 2)
    )
    assert first == pytest.approx(0.69, abs=0.04)  # The bias is 3 (1 - 1/2) = 1.5 logits.
    assert late == pytest.approx(0.53, abs=0.04)  # The bias is 3 (1/3 - 1/4) = 0.25 logits.


def test_without_biases_neither_length_nor_place_matters() -> None:
    items, quality = world(4000, length_sd=1.2)
    longer, first = preferred(items, simulate(items, quality, only("careful", **UNBIASED), seed=0))
    assert longer == pytest.approx(0.5, abs=0.025)
    assert first == pytest.approx(0.5, abs=0.025)


@pytest.mark.parametrize("number", [1, 2, 3, 5, 10, 20, 100, 137])
def test_shares_of_the_mixture_are_exact_to_rounding(number: int) -> None:
    crowd = Crowd(annotators=number)
    counts = Counter(annotator.kind for annotator in make_crowd(crowd, 3))
    assert counts.total() == number
    assert counts["careful"] >= 1
    for kind, count in counts.items():
        assert abs(count - getattr(crowd, kind) * number) < 1


def test_a_hundred_are_exactly_the_mixture() -> None:
    counts = Counter(annotator.kind for annotator in make_crowd(Crowd(annotators=100), 0))
    assert counts == {"careful": 70, "weak": 20, "coin": 5, "display_order": 3, "inverted": 2}


def test_a_small_crowd_with_few_careful_still_has_one() -> None:
    kinds = [
        a.kind for a in make_crowd(Crowd(annotators=2, careful=0.1, weak=0.9, coin=0, display_order=0, inverted=0), 0)
    ]
    assert sorted(kinds) == ["careful", "weak"]


def test_shares_are_relative() -> None:
    kinds = {
        a.kind for a in make_crowd(Crowd(annotators=10, careful=0.2, weak=0.2, coin=0, display_order=0, inverted=0), 0)
    }
    assert kinds == {"careful", "weak"}
    with pytest.raises(ConfigError, match="every share of the mixture is 0"):
        make_crowd(only("careful", careful=0.0), 0)


def test_names_tell_the_kind_and_differ() -> None:
    names = [annotator.name for annotator in make_crowd(Crowd(annotators=100), 0)]
    assert len(set(names)) == 100
    assert any(name.startswith("sim-careful-") for name in names)
    assert any(name.startswith("sim-display-order-") for name in names)


def test_an_answer_does_not_depend_on_the_other_items_or_their_order() -> None:
    items, quality = world(30, k=4)
    crowd = Crowd(overlap=3)
    scale = quality_scale(items, quality, crowd.quality_sd)
    whole = {r.id: r for r in simulate(items, quality, crowd, 5)}
    back = {r.id: r for r in simulate(items[::-1], quality, crowd, 5)}
    part = simulate(items[7:9], quality, crowd, 5, scale=scale)
    assert whole == back
    assert [whole[r.id] for r in part] == part
    assert [whole[r.id].duration_s for r in part] == [r.duration_s for r in part]


def test_another_seed_gives_other_answers() -> None:
    items, quality = world(30, k=4)
    assert simulate(items, quality, Crowd(), 0) == simulate(items, quality, Crowd(), 0)
    assert simulate(items, quality, Crowd(), 0) != simulate(items, quality, Crowd(), 1)


def test_each_person_and_each_seed_sees_an_order_of_its_own() -> None:
    items, quality = world(100, k=4)
    one = simulate(items, quality, only("careful", annotators=2, overlap=2), 0)
    other_seed = simulate(items, quality, only("careful", annotators=2, overlap=2), 1)
    assert sum(a.shown == b.shown for a, b in zip(one[::2], one[1::2], strict=True)) < 20  # By chance it is 1 in 24.
    assert sum(a.shown == b.shown for a, b in zip(one, other_seed, strict=True)) < 40


def test_every_answer_is_whole_marked_as_simulated_and_shows_its_shuffled_order() -> None:
    items, quality = world(100, k=4)
    rankings = simulate(items, quality, Crowd(overlap=2, criterion="help"), 0)
    by_id = {item.id: [c.id for c in item.completions] for item in items}
    assert len(rankings) == 200
    for ranking in rankings:
        check(ranking, by_id[ranking.item_id], allow_partial=False)
        assert ranking.simulated
        assert ranking.criterion == "help"
        assert sorted(ranking.shown) == sorted(by_id[ranking.item_id])
    firsts = Counter(r.shown[0].split(":")[1] for r in rankings)
    assert len(firsts) == 4 and min(firsts.values()) > 25
    assert len({(r.item_id, r.annotator) for r in rankings}) == 200


def test_quality_has_no_unit_and_no_origin() -> None:
    items, quality = world(50, k=3)
    moved = {id: 1000 + 17 * value for id, value in quality.items()}
    tiers = [r.tiers for r in simulate(items, quality, Crowd(), 0)]
    assert [r.tiers for r in simulate(items, moved, Crowd(), 0)] == tiers


def test_quality_scale_gives_gaps_the_asked_spread() -> None:
    items, quality = world(200, k=3)
    scale = quality_scale(items, quality, 2.4)
    gaps = [quality[a.id] - quality[b.id] for i in items for a, b in itertools.combinations(i.completions, 2)]
    assert math.sqrt(statistics.fmean((scale * gap) ** 2 for gap in gaps)) == pytest.approx(2.4)


def test_quality_without_gaps_leaves_only_noise() -> None:
    items, quality = world(20)
    assert quality_scale(items, dict.fromkeys(quality, 3.0), 2.4) == 0
    assert len(simulate(items, dict.fromkeys(quality, 3.0), Crowd(), 0)) == 20


def test_display_order_people_give_back_the_order_shown() -> None:
    items, quality = world(20, k=4)
    for ranking in simulate(items, quality, only("display_order"), 0):
        assert ranking.tiers == tuple((id,) for id in ranking.shown)


def test_coin_flippers_ignore_quality_and_inverted_people_reverse_it() -> None:
    items, quality = world(2000)

    def accuracy(kind: str) -> float:
        rankings = simulate(items, quality, only(kind, **UNBIASED), 0)
        return statistics.fmean(quality[r.tiers[0][0]] > quality[r.tiers[1][0]] for r in rankings)

    assert accuracy("coin") == pytest.approx(0.5, abs=0.035)
    assert accuracy("inverted") == pytest.approx(0.2, abs=0.03)
    assert accuracy("weak") == pytest.approx(0.71, abs=0.035)


def test_equal_texts_are_tied_by_those_who_read() -> None:
    twins = (Completion("i:a", "same text"), Completion("i:b", "same text"), Completion("i:c", "other"))
    ranking = simulate([Item("i", Prompt("p"), twins)], {"i:a": 1, "i:b": 1, "i:c": 0}, only("careful"), 0)[0]
    assert any({"i:a", "i:b"} <= set(tier) for tier in ranking.tiers)


def test_a_larger_threshold_makes_more_ties() -> None:
    items, quality = world(500, k=4)
    shares = [
        pairwise_agreement(answered(items, simulate(items, quality, Crowd(tie_threshold=t), 0))).tie_share
        for t in (0.0, 0.3, 1.0)
    ]
    assert shares[0] == 0
    assert 0.05 < shares[1] < 0.15 < shares[2]


def test_readers_take_the_published_time_and_spammers_seconds() -> None:
    assert (median_seconds(2), median_seconds(4)) == (37, 95)
    items, quality = world(1500, k=4)
    careful = [r.duration_s for r in simulate(items, quality, only("careful"), 0)]
    assert statistics.median(careful) == pytest.approx(95, rel=0.05)
    assert np.std(np.log(careful)) == pytest.approx(0.5, abs=0.04)
    assert all(3 <= r.duration_s <= 6 for r in simulate(items, quality, only("coin"), 0))


def test_nothing_to_rank_gives_no_rankings() -> None:
    assert simulate([], {}, Crowd(), 0) == []
    alone = Item("i", Prompt("p"), (Completion("i:c0", "alone"),))
    assert simulate([alone], {}, Crowd(), 0) == []


@pytest.mark.parametrize("bad", [math.nan, math.inf, None])
def test_a_completion_without_a_quality_is_named(bad: float | None) -> None:
    items, quality = world(3)
    if bad is None:
        del quality["i1:c1"]
    else:
        quality["i1:c1"] = bad
    with pytest.raises(DataError, match="completion i1:c1 has no finite quality"):
        simulate(items, quality, Crowd(), 0)


def test_more_overlap_than_people_is_refused() -> None:
    with pytest.raises(ConfigError, match="overlap = 5"):
        simulate(*world(1), Crowd(annotators=4, overlap=5), 0)
