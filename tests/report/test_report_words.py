"""What the page says in words follows from the figures, and claims no more."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from prefloop.diagnose.diagnosis import diagnose
from prefloop.diagnose.records import RunRecord, series_of
from prefloop.labels.agreement import Agreement
from prefloop.project.project import Project
from prefloop.report.collect import columns
from prefloop.report.hacking import evidence
from prefloop.report.text import number, percent, seconds, span
from prefloop.report.words import headline, next_step, verdict
from prefloop.results import Interval
from prefloop.stages.report import report

_DRAWN: dict[str, Any] = {}  # The page is drawn once for all tests, because that takes a second.


@pytest.fixture
def facts(make_project: Any) -> dict[str, Any]:
    if not _DRAWN:
        root = make_project(judge=True)
        with Project.open(root, quiet=True) as project:
            report(project)
        _DRAWN.update(json.loads((root / "report.json").read_text()))
    return copy.deepcopy(_DRAWN)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(0.51, 0.7, "Better than"), (0.3, 0.49, "Worse than"), (0.45, 0.6, "No clear difference"), (0.5, 0.9, "No clear")],
)
def test_a_difference_is_claimed_only_where_the_interval_leaves_out_one_half(
    low: float, high: float, said: str
) -> None:
    assert verdict(Interval(0.6, low, high, 80, None)).startswith(said)


def test_an_independent_judge_comes_before_the_reward_model(facts: dict[str, Any]) -> None:
    said = headline(facts)
    assert [label for label, _, _ in said["tiles"]][:2] == ["Win rate", "Win rate by the reward model"]
    assert said["sentence"].endswith("as judged by an independent judge.")


def test_a_demo_says_both_what_it_is_measured_against(facts: dict[str, Any]) -> None:
    facts["demo"] = {"win_rate": {"mean": 0.88, "low": 0.82, "high": 0.93, "n": 123}}
    said = headline(facts)["sentence"]
    assert "beats the reference's" in said and said.endswith("it is preferred on 88 % (82 to 93 %).")


def _evidence(facts: dict[str, Any], **after: float) -> dict[str, Any]:
    """Return the evidence with some figures of the policy replaced."""
    evaluated, aligned, reward = (copy.deepcopy(facts["stages"][s][-1]) for s in ("evaluate", "align", "reward"))
    evaluated["result"]["sampled"]["reward_gain"]["low"] = 0.5
    sampled = evaluated["result"]["sampled"]
    gain = after.pop("judge_gain", 0.3)
    sampled["judge_gain"] = {"mean": gain, "low": gain - 0.05, "high": gain + 0.05}
    sampled["policy"] |= after
    for share in ("longer_won", "shorter_won"):
        reward["result"]["heldout"][share] = {"share": 0.7, "pairs": 10}
    return evidence(evaluated, aligned, reward, _fired(evaluated, aligned))


def _fired(*runs: dict[str, Any]) -> dict[str, str]:
    """Return what the rules say of runs as the report gathers them."""
    found: dict[str, str] = {}
    for run in runs:
        logged, steps = run["metrics"], run["metrics"]["step"]
        series = {
            name: series_of([(s, v) for s, v in zip(steps, column, strict=True) if v is not None])
            for name, column in logged.items()
        }
        made = RunRecord(run["run"], run["stage"], config=run["config"], result=run["result"], metrics=series)
        found |= {s.rule: s.said for finding in diagnose(made).findings for s in finding.symptoms}
    return found


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
        ({"kl": 40.0}, "Distance moved (KL, nats)"),
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
    aligned, evaluated = facts["stages"]["align"][-1], facts["stages"]["evaluate"][-1]
    metrics = aligned["metrics"]
    there = [v is not None for v in metrics["eval_reward"]]
    for fall, prompts, marked in ((0.2, 64.0, False), (0.5, 64.0, True), (0.5, 16.0, False)):
        metrics["eval_reward_std"] = [1.0 if at else None for at in there]
        metrics["eval_sequences"] = [prompts if at else None for at in there]
        metrics["eval_reward"] = [0.0, None, 0.5, None, 1.0, None, 1.0, None, 1.0 - fall]
        rows = evidence(evaluated, aligned, None, _fired(evaluated, aligned))["rows"]
        row = next(row for row in rows if row["signal"] == "Held-out reward while training")
        assert row["look"] is marked
        assert ("within the noise" in row["reading"]) is not marked


def test_figures_are_written_for_people() -> None:
    assert (number(-1.234), number(None), number(float("nan")), number(1e-5)) == ("−1.23", "–", "–", "1.0e−05")
    assert (percent(0.456), percent(None)) == ("46 %", "–")
    assert span(Interval(0.6, 0.49, 0.71, 80, None)) == "49 to 71 %"
    assert span(Agreement(None, None, None, 0, None)) == "" == span(None)
    assert [seconds(s) for s in (0.44, 12, 200, 7500, None)] == ["0.4 s", "12 s", "3 min 20 s", "2 h 5 min", "–"]


def _headline(facts: dict[str, Any], result: dict[str, Any] | None = None, **after: float) -> dict[str, Any]:
    evaluated = facts["stages"]["evaluate"][-1]["result"]
    evaluated["sampled"]["policy"] |= after
    evaluated |= result or {}
    return headline(facts)


def test_a_collapsed_policy_is_not_praised_however_often_it_wins(facts: dict[str, Any]) -> None:
    said = _headline(facts, distinct_2=0.02, kl=116.0)
    assert said["sentence"].startswith(
        "The policy has collapsed: different word pairs are 2% of all, the reference's 80%"
    )
    assert said["verdict"].startswith("Do not use this policy.") and "Better" not in said["verdict"]
    assert evidence(facts["stages"]["evaluate"][-1], None, None, {})["collapsed"]


def test_a_great_distance_is_in_the_first_sentence_and_no_reward_model_makes_it_better(facts: dict[str, Any]) -> None:
    far = _headline(copy.deepcopy(facts), kl=81.0, length=33.0)
    assert far["sentence"].startswith("The policy has collapsed: it is far from the reference, KL 81 nats a sequence")
    long = _headline(copy.deepcopy(facts), kl=81.0, length=200.0)
    assert "as judged by an independent judge, but it is far from the reference, KL 81 nats" in long["sentence"]
    assert long["verdict"].startswith("Better than"), "an independent judge has seen what it answers"
    del facts["stages"]["evaluate"][-1]["result"]["sampled"]["judge_win_rate"]
    alone = _headline(facts, kl=81.0, length=200.0)
    assert alone["verdict"].startswith("Its win rate lies above one half") and "no proof" in alone["verdict"]


def test_a_healthy_policy_is_praised_without_a_but_and_a_narrower_one_with_it(facts: dict[str, Any]) -> None:
    assert _headline(facts)["verdict"].endswith("lies above one half.")
    said = _headline(facts, distinct_2=0.45)["verdict"]
    assert said.startswith("Better than") and "Before you believe it, read the answers: different word pairs" in said


def test_what_chose_the_policy_and_a_judge_at_chance_are_said_with_the_verdict(facts: dict[str, Any]) -> None:
    assert "It is not independent" in _headline(facts, {"independent": False})["verdict"]
    sampled = facts["stages"]["evaluate"][-1]["result"]["sampled"]
    facts["stages"]["reward"][-1]["result"]["heldout"] |= {"accuracy": 0.5, "low": 0.4, "high": 0.6}
    assert "is at chance" not in _headline(facts)["verdict"], "an independent judge needs no reward model"
    del sampled["judge_win_rate"]
    assert "is at chance" in _headline(facts)["verdict"]


def test_few_prompts_and_an_interval_of_no_width_claim_nothing() -> None:
    assert verdict(Interval(1.0, 0.57, 1.0, 5, None)).startswith("Too few prompts to tell: 5")
    seen = verdict(Interval(0.52, 0.45, 0.6, 39, 0.091))
    assert "show a win rate 9 points off one half four times in five" in seen


def test_a_run_without_a_better_step_is_said_to_leave_the_policy_unchanged(facts: dict[str, Any]) -> None:
    del facts["stages"]["evaluate"]
    facts["stages"]["align"][-1]["result"] |= {"best_step": 0, "policy": "sft-001"}
    assert "the policy of model is the unchanged reference (sft-001)" in headline(facts)["sentence"].replace(
        "the model", "model"
    )


@pytest.mark.parametrize("stages", [("reward", "evaluate"), ("evaluate",)])
def test_what_comes_next_fits_a_run_that_made_no_policy_with_or_without_a_reward_model(
    facts: dict[str, Any], stages: tuple[str, ...]
) -> None:
    for stage in stages:
        del facts["stages"][stage]
    result = facts["stages"]["align"][-1]["result"]
    result |= {"best_step": 0, "collapses": [{"step": 4, "signs": ["far"]}], "stopped": "all steps done"}
    said = next_step(facts)
    assert said and said["command"] == "prefloop align" and "it went too far from its start" in said["text"]
    result["collapses"] = []
    assert "no step was better than its start" in (next_step(facts) or {})["text"]
    result["best_step"] = 4
    assert (next_step(facts) or {})["command"] == f"prefloop {stages[0]}"


def test_columns_of_a_damaged_metrics_file_hold_its_finite_numbers() -> None:
    lines: list[Any] = [{"step": 1, "kl": 0.5}, 7, {"kl": 1.0}, {"step": 2, "kl": "x"}, {"step": 3, "kl": float("nan")}]
    assert columns(lines) == {"step": [1, 2, 3], "kl": [0.5, None, None]}
