"""Agreement of people has the right figures, on hand-made cases and on the public E2E rankings."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from prefloop.intervals import share_interval, wilson
from prefloop.labels.agreement import agreement_by_criterion, pairwise_agreement
from prefloop.types import Completion, Item, Prompt, Ranking


def item(*answers: tuple[str, str, list[list[str]]], id: str = "i") -> Item:
    rankings = tuple(Ranking(id, who, what, tuple(map(tuple, tiers))) for who, what, tiers in answers)
    return Item(id, Prompt(id), tuple(Completion(c, c) for c in "abcd"), rankings)


def read_items(path: Path) -> list[Item]:
    items = []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            texts = tuple(Completion(f"{row['id']}:{c['id']}", c["text"]) for c in row["completions"])
            rankings = tuple(
                Ranking(
                    row["id"],
                    r["annotator"],
                    r["criterion"],
                    tuple(tuple(f"{row['id']}:{c}" for c in t) for t in r["tiers"]),
                )
                for r in row["rankings"]
            )
            items.append(Item(row["id"], Prompt(row["prompt"]), texts, rankings))
    return items


def test_agreement_counts_only_pairs_both_put_in_an_order() -> None:
    found = pairwise_agreement([item(("x", "q", [["a"], ["b"], ["c"]]), ("y", "q", [["a"], ["c"], ["b"]]))])
    assert (found.share, found.pairs, found.tie_share) == (pytest.approx(2 / 3), 3, 0)
    found = pairwise_agreement([item(("x", "q", [["a", "b"], ["c"]]), ("y", "q", [["a"], ["c"], ["b"]]))])
    assert (found.share, found.pairs, found.tie_share) == (pytest.approx(1 / 2), 2, pytest.approx(1 / 6))


def test_a_completion_only_one_of_them_ranked_is_left_out() -> None:
    assert pairwise_agreement([item(("x", "q", [["a"], ["b"], ["c"]]), ("y", "q", [["a"], ["b"]]))]).pairs == 1


def test_nobody_is_compared_with_himself_or_across_criteria() -> None:
    alone = item(("x", "q", [["a"], ["b"]]), ("x", "q", [["b"], ["a"]]), ("y", "style", [["b"], ["a"]]))
    found = pairwise_agreement([alone])
    assert (found.share, found.low, found.high, found.pairs) == (None, None, None, 0)
    assert pairwise_agreement([]).tie_share is None


def test_criteria_are_told_apart_and_pooled() -> None:
    items = [
        item(("x", "q", [["a"], ["b"]]), ("y", "q", [["a"], ["b"]]), id="i"),
        item(("x", "style", [["a"], ["b"]]), ("y", "style", [["b"], ["a"]]), id="j"),
    ]
    by_criterion = agreement_by_criterion(items)
    assert {c: a.share for c, a in by_criterion.items()} == {"q": 1, "style": 0}
    assert pairwise_agreement(items).share == 0.5
    assert by_criterion["q"].low is not None and by_criterion["q"].low < 0.5  # One pair is no evidence.


def test_e2e_workers_agree_within_sampling_error_of_the_published_share(shared_data: Path) -> None:
    items = read_items(shared_data / "e2e_nlg" / "rankings_train.jsonl.gz")
    for criterion, published, exact in (("quality", 0.671, 3637 / 5436), ("naturalness", 0.625, 5032 / 8067)):
        found = pairwise_agreement(items, criterion)
        assert found.share == pytest.approx(exact, abs=1e-12)
        assert found.low is not None and found.high is not None
        assert found.low < published < found.high
        assert found.high - found.low < 0.05
        assert found.tie_share == pytest.approx(0.5, abs=0.06)  # About half of all pairs are ties.


def test_wilson_gives_the_textbook_interval() -> None:
    assert wilson(8, 10) == (pytest.approx(0.4901625), pytest.approx(0.9433178))
    assert wilson(0, 10) == (pytest.approx(0, abs=1e-12), pytest.approx(0.2775328))
    assert wilson(0, 0) == (0, 1)


def test_the_bootstrap_covers_the_truth_about_95_times_in_100_when_pairs_hang_together() -> None:
    rng = np.random.default_rng(0)
    covered = naive = 0
    for trial in range(200):
        # The mean is 0.7, and the groups are strongly clustered.
        hits = rng.binomial(10, rng.beta(1.4, 0.6, size=60)).astype(float)
        low, high = share_interval(hits, np.full(60, 10.0), resamples=400, seed=trial)
        covered += low <= 0.7 <= high
        low, high = wilson(hits.sum(), 600)
        naive += low <= 0.7 <= high
    assert 180 <= covered <= 200
    assert naive < 160  # Treating the pairs as independent is overconfident.


def test_every_group_is_drawn() -> None:
    hits = np.zeros(20)
    for group in (0, 19):
        assert share_interval(np.where(np.arange(20) == group, 10.0, hits), np.full(20, 10.0))[1] > 0.05


def test_the_interval_is_the_same_for_the_same_seed() -> None:
    hits, totals = np.arange(20.0), np.full(20, 20.0)
    assert share_interval(hits, totals, seed=1) == share_interval(hits, totals, seed=1)
    assert share_interval(hits, totals, seed=1) != share_interval(hits, totals, seed=2)
