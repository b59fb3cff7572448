"""The reward-model evaluation is right on hand-counted cases, on simulated people and on the public E2E rankings."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from prefloop.errors import DataError
from prefloop.labels.preference_eval import pair_accuracy
from prefloop.types import Completion, Item, Prompt, Ranking

from .test_agreement import read_items


def item(texts: dict[str, str], *answers: list[list[str]], id: str = "i", prompt: str | None = None) -> Item:
    completions = tuple(Completion(f"{id}:{c}", text) for c, text in texts.items())
    rankings = tuple(
        Ranking(id, f"w{n}", "q", tuple(tuple(f"{id}:{c}" for c in tier) for tier in tiers))
        for n, tiers in enumerate(answers)
    )
    return Item(id, Prompt(prompt or id), completions, rankings)


ABC = {"a": "long text", "b": "text", "c": "t"}


def test_a_hand_counted_case() -> None:
    people = item(ABC, [["a"], ["b"], ["c"]], [["a"], ["c"], ["b"]])  # The mean ranks are 1, 2.5, 2.5.
    report = pair_accuracy({"i:a": 2.0, "i:b": 3.0, "i:c": 0.0}, [people], "q")
    assert (report.accuracy, report.pairs, report.prompts, report.ties) == (0.5, 2, 1, 1)
    assert (report.tie_gap, report.pair_gap) == (3.0, 1.5)
    assert (report.vote_accuracy.share, report.vote_accuracy.pairs) == (0.5, 6)
    assert report.longer_wins.share == 1
    assert (report.longer_won.share, report.shorter_won.share) == (0.5, None)
    assert [(b.low, b.pairs, b.accuracy) for b in report.by_margin if b.pairs] == [(1.0, 2, 0.5)]


def test_a_margin_on_an_edge_is_in_the_bin_below() -> None:
    report = pair_accuracy({"i:a": 2.0, "i:b": 1.0, "i:c": 0.0}, [item(ABC, [["a"], ["b"], ["c"]])], "q")
    assert [(b.low, b.high, b.pairs) for b in report.by_margin if b.pairs] == [(0.5, 1.0, 2), (1.0, 2.0, 1)]


def test_log_loss_is_that_of_bradley_terry() -> None:
    report = pair_accuracy({"i:a": 1.5, "i:b": 0.0}, [item({"a": "x", "b": "y"}, [["b"], ["a"]])], "q")
    assert report.log_loss == pytest.approx(np.logaddexp(0, 1.5))


def test_right_scores_are_always_right_and_their_negatives_never() -> None:
    items = [item(ABC, [["c"], ["a"], ["b"]], id=f"i{n}") for n in range(12)]
    right = {f"i{n}:{c}": s for n in range(12) for c, s in (("c", 2.0), ("a", 1.0), ("b", 0.0))}
    report = pair_accuracy(right, items, "q")
    assert (report.accuracy, report.high) == (1, 1)
    assert report.low is not None and report.low < 0.95  # 12 prompts cannot show perfection.
    assert pair_accuracy({id: -s for id, s in right.items()}, items, "q").accuracy == 0
    assert report.longer_wins.share == pytest.approx(1 / 3)


def test_equal_scores_and_equal_lengths_count_half() -> None:
    people = item({"a": "same", "b": "size"}, [["a"], ["b"]])
    report = pair_accuracy({"i:a": 1.0, "i:b": 1.0}, [people], "q")
    assert report.accuracy == 0.5
    assert report.longer_wins.share == 0.5
    assert (report.longer_won.pairs, report.shorter_won.pairs) == (0, 0)
    assert report.ece == 0


def test_a_shift_of_all_scores_of_an_item_changes_nothing() -> None:
    people = item(ABC, [["a"], ["b", "c"]], [["b"], ["a"], ["c"]])
    scores = {"i:a": 0.5, "i:b": -0.25, "i:c": 1.0}
    assert pair_accuracy(scores, [people], "q") == pair_accuracy({i: s + 4 for i, s in scores.items()}, [people], "q")


def test_true_bradley_terry_scores_are_calibrated_and_doubled_ones_overconfident() -> None:
    rng = np.random.default_rng(0)
    items, scores = [], {}
    for n in range(6000):
        gap = float(rng.normal() * 2)
        wins = rng.random() < expit(gap)
        items.append(item({"a": "x", "b": "y"}, [["a"], ["b"]] if wins else [["b"], ["a"]], id=f"i{n}"))
        scores.update({f"i{n}:a": gap, f"i{n}:b": 0.0})
    true = pair_accuracy(scores, items, "q", resamples=200)
    doubled = pair_accuracy({id: 2 * s for id, s in scores.items()}, items, "q", resamples=200)
    assert true.ece is not None and doubled.ece is not None
    assert true.ece < 0.02 < 0.05 < doubled.ece
    assert true.log_loss is not None and doubled.log_loss is not None
    assert true.log_loss < doubled.log_loss
    assert true.accuracy == doubled.accuracy
    assert sum(b.votes for b in true.calibration) == 6000
    for b in true.calibration:
        assert b.predicted is not None and b.low <= b.predicted <= b.high
        assert b.observed == pytest.approx(b.predicted, abs=4 * math.sqrt(0.25 / b.votes))


def test_a_tie_vote_is_half_a_win_for_calibration() -> None:
    report = pair_accuracy({"i:a": 1.0, "i:b": 0.0}, [item({"a": "x", "b": "y"}, [["a", "b"]])], "q")
    (used,) = [b for b in report.calibration if b.votes]
    assert used.observed == 0.5
    assert report.log_loss == pytest.approx((np.logaddexp(0, -1) + np.logaddexp(0, 1)) / 2)
    assert (report.accuracy, report.ties) == (None, 1)


def test_lists_of_one_prompt_are_resampled_together() -> None:
    def interval(prompts: int) -> float:
        texts = {"a": "x", "b": "y"}
        items = [item(texts, [["a"], ["b"]], id=f"i{n}", prompt=f"p{n % prompts}") for n in range(400)]
        scores = {f"i{n}:a": 1.0 if (n % 20) < 14 else -1.0 for n in range(400)} | {f"i{n}:b": 0.0 for n in range(400)}
        report = pair_accuracy(scores, items, "q")
        assert report.accuracy == 0.7
        assert report.prompts == prompts
        assert report.low is not None and report.high is not None
        return report.high - report.low

    assert interval(20) > 2 * interval(400)  # The lists of each of the 20 prompts all share one outcome.


def test_other_criteria_and_superseded_rankings_are_not_read() -> None:
    people = item({"a": "x", "b": "y"}, [["a"], ["b"]])
    first = people.rankings[0]
    edit = Ranking("i", "w0", "q", (("i:b",), ("i:a",)), supersedes=first.id)
    style = dataclasses.replace(first, criterion="style", id="")
    report = pair_accuracy({"i:a": 1.0, "i:b": 0.0}, [dataclasses.replace(people, rankings=(first, edit, style))], "q")
    assert (report.accuracy, report.pairs) == (0, 1)


def test_nothing_ranked_is_a_report_without_numbers() -> None:
    report = pair_accuracy({}, [item(ABC)], "q")
    assert (report.accuracy, report.low, report.pairs, report.ece, report.log_loss) == (None, None, 0, None, None)


@pytest.mark.parametrize("scores", [{"i:a": 1.0}, {"i:a": 1.0, "i:b": math.nan}])
def test_a_ranked_completion_without_a_score_is_named(scores: dict[str, float]) -> None:
    with pytest.raises(DataError, match="completion i:b was ranked but has no finite score"):
        pair_accuracy(scores, [item({"a": "x", "b": "y"}, [["a"], ["b"]])], "q")


def test_the_report_is_json_without_nan() -> None:
    report = pair_accuracy({"i:a": 2.0, "i:b": 3.0, "i:c": 0.0}, [item(ABC, [["a"], ["b"], ["c"]])], "q")
    assert json.loads(json.dumps(report.to_json(), allow_nan=False))["by_margin"][-1]["high"] is None


def test_length_baselines_of_e2e_are_as_published(shared_data: Path) -> None:
    items = read_items(shared_data / "e2e_nlg" / "rankings_train.jsonl.gz")
    length = {c.id: float(len(c.text)) for item in items for c in item.completions}
    for criterion, published in (("quality", 0.61), ("naturalness", 0.40)):
        report = pair_accuracy(length, items, criterion)
        assert report.accuracy == report.longer_wins.share
        assert report.accuracy == pytest.approx(published, abs=0.02)
