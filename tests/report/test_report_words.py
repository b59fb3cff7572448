"""What the page says in words follows from the figures, and claims no more."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from prefloop.report.hacking import evidence
from prefloop.report.text import number, percent, seconds, span
from prefloop.report.words import headline, verdict
from prefloop.stages.project import Project
from prefloop.stages.report import report


@pytest.fixture
def facts(make_project: Any) -> dict[str, Any]:
    root = make_project(judge=True)
    with Project.open(root, quiet=True) as project:
        report(project)
    gathered: dict[str, Any] = json.loads((root / "report.json").read_text())
    return gathered


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(0.51, 0.7, "Better than"), (0.3, 0.49, "Worse than"), (0.45, 0.6, "No clear difference"), (0.5, 0.9, "No clear")],
)
def test_a_difference_is_claimed_only_where_the_interval_leaves_out_one_half(
    low: float, high: float, said: str
) -> None:
    assert verdict({"mean": 0.6, "low": low, "high": high}).startswith(said)


def test_an_independent_judge_comes_before_the_reward_model(facts: dict[str, Any]) -> None:
    said = headline(facts)
    assert [label for label, _, _ in said["tiles"]][:2] == ["Win rate", "Win rate by the reward model"]
    assert said["sentence"].endswith("as judged by an independent judge.")


def test_a_demo_says_both_what_it_is_measured_against(facts: dict[str, Any]) -> None:
    facts["demo"] = {"win_rate": {"mean": 0.88, "low": 0.82, "high": 0.93, "n": 123}}
    said = headline(facts)["sentence"]
    assert "beats the reference's" in said and said.endswith("it is preferred on 88 % (82 to 93 %).")


def _evidence(facts: dict[str, Any], **after: float) -> dict[str, Any]:
    """With some figures of the policy replaced."""
    evaluated, aligned, reward = (copy.deepcopy(facts["stages"][s][-1]) for s in ("evaluate", "align", "reward"))
    sampled = evaluated["result"]["sampled"]
    gain = after.pop("judge_gain", 0.3)
    sampled["judge_gain"] = {"mean": gain, "low": gain - 0.05, "high": gain + 0.05}
    sampled["policy"] |= after
    for share in ("longer_won", "shorter_won"):
        reward["result"]["heldout"][share] = {"share": 0.7, "pairs": 10}
    return evidence(evaluated, aligned, reward)


@pytest.mark.parametrize(
    ("after", "signal"),
    [
        ({"judge_gain": -0.2}, "Independent judge"),
        ({"judge_gain": 0.0}, "Independent judge"),
        ({"length": 60.0}, "Length, tokens"),
        ({"length": 15.0}, "Length, tokens"),
        ({"length_reward_correlation": 0.6}, "Correlation of length and reward"),
        ({"distinct_2": 0.3}, "Different word pairs"),
        ({"ended": 0.5}, "Finished answers"),
        ({"kl": 70.0}, "Distance moved (KL, nats)"),
    ],
)
def test_each_sign_of_a_gamed_reward_is_marked_by_itself(
    facts: dict[str, Any], after: dict[str, float], signal: str
) -> None:
    found = _evidence(facts, **after)
    assert [row["signal"] for row in found["rows"] if row["look"]] == [signal]
    assert found["summary"].startswith(f"Worth a look: {signal.lower()}.")


def test_without_any_sign_nothing_is_marked_and_nothing_is_proved(facts: dict[str, Any]) -> None:
    found = _evidence(facts)
    assert not any(row["look"] for row in found["rows"])
    assert "That is no proof" in found["summary"]


def test_a_held_out_reward_that_falls_within_the_noise_is_not_marked(facts: dict[str, Any]) -> None:
    aligned = facts["stages"]["align"][-1]
    metrics = aligned["metrics"]
    metrics["eval_reward_std"] = [1.0 if v is not None else None for v in metrics["eval_reward"]]  # noise 2/sqrt(64)
    for fall, marked in ((0.2, False), (0.3, True)):
        metrics["eval_reward"] = [0.0, None, 0.5, None, 1.0, None, 1.0, None, 1.0 - fall]
        rows = evidence(facts["stages"]["evaluate"][-1], aligned, None)["rows"]
        assert next(r["look"] for r in rows if r["signal"] == "Held-out reward while training") is marked


def test_figures_are_written_for_people() -> None:
    assert (number(-1.234), number(None), number(float("nan")), number(1e-5)) == ("−1.23", "–", "–", "1.0e−05")
    assert (percent(0.456), percent(None)) == ("46 %", "–")
    assert span({"low": 0.49, "high": 0.71}) == "49 to 71 %"
    assert span({"low": None, "high": None}) == "" == span(None)
    assert [seconds(s) for s in (0.44, 12, 200, 7500, None)] == ["0.4 s", "12 s", "3 min 20 s", "2 h 5 min", "–"]
