"""Each level speaks outside of its range and only there, for runs that sample and for runs that learn from lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from tests.diagnose.runs import STEPS, align_run

from prefloop.diagnose.diagnosis import diagnose
from prefloop.diagnose.records import RunRecord, series_of


def seen(run: RunRecord) -> set[str]:
    """The signals of all symptoms."""
    found = diagnose(run)
    assert found.problems == ()
    return {symptom.signal for finding in found.findings for symptom in finding.symptoms}


def long(values: Sequence[float]) -> list[float]:
    return [values[n * len(values) // STEPS] for n in range(STEPS)]


@pytest.mark.parametrize(
    ("name", "fine", "odd"),
    [
        ("kl", [0, 2, 4, 5, 6, 7, 8], [0, 20, 60, 60]),
        ("entropy", [0.5, 0.4, 0.3, 0.3], [2.0, 1.0, 0.05, 0.05]),
        ("ended", [0.9, 0.9, 0.97, 0.99], [0.99, 0.7, 0.5, 0.5]),
        ("length", [30, 33, 36, 40], [30, 33, 60, 60]),
        ("length", [30, 25, 22, 20], [30, 12, 10, 10]),
        ("first_ratio", [1.0, 1.000001], [1.0, 1.01]),
        ("ratio", [1.0, 0.9, 1.3], [1.0, 2.5]),
        ("ratio", [0.7, 1.0], [0.4, 1.0]),
        ("clip_fraction", [0.5, 0.1, 0.05, 0.02], [0.1, 0.2, 0.3, 0.35]),
        ("approx_kl", [0.01, 0.01, 0.001, 0.001], [0.001, 0.01, 0.02, 0.15]),
        ("stale_kl", [0.001, 0.01], [0.001, 0.05]),
        ("explained_variance", [-2, -1, 0.1, 0.4], [0.4, 0.1, 0.0, -0.1]),
        ("constant_groups", [0.6, 0.4, 0.2, 0.1], [0.1, 0.3, 0.7, 0.9]),
        ("value_clip_fraction", [0.4, 0.1, 0.0, 0.0], [0, 0.1, 0.4, 0.4]),
        ("reward_std", [1.0, 0.8], [1.0, 0.0]),
        ("skipped", [0, 0], [0, 0.5]),
        ("grad_norm_policy", [1, 2, 1, 3], [1, 1, 1, 1, 1, 1, 60]),
        ("reward_cut", [0.0, 0.04], [0.0, 0.2]),
    ],
)
def test_a_rule_speaks_outside_its_range_and_only_there(name: str, fine: Sequence[float], odd: Sequence[float]) -> None:
    assert name not in seen(align_run({name: long(fine)}))
    assert name in seen(align_run({name: long(odd)}))


def offline(**columns: Sequence[float]) -> RunRecord:
    """A run of DPO, which logs the figures of its answers at evaluations only."""
    run = align_run(dict.fromkeys(align_run().metrics, ()), {"algorithm": "dpo"})
    healthy: dict[str, Sequence[float]] = {
        "eval_kl": [0, 2, 4, 6, 8], "eval_length": [30] * 5, "eval_ended": [1.0] * 5, "eval_entropy": [0.5] * 5,
        "heldout_accuracy": [0.5, 0.6, 0.6, 0.6, 0.6],
    }  # fmt: skip
    series = {n: series_of([(7 * i, float(v)) for i, v in enumerate(c)]) for n, c in (healthy | columns).items()}
    return replace(run, metrics=series)


@pytest.mark.parametrize(
    ("name", "odd"),
    [
        ("eval_kl", [0, 60, 70, 80, 80]),
        ("eval_entropy", [0.5, 0.1, 0.02, 0.01, 0.01]),
        ("eval_ended", [1, 0.9, 0.6, 0.5, 0.5]),
        ("eval_length", [30, 50, 70, 90, 90]),
        ("heldout_accuracy", [0.6, 0.5, 0.45, 0.4, 0.4]),
    ],
)
def test_a_run_that_draws_no_samples_to_learn_from_is_judged_by_its_held_out_answers(
    name: str, odd: Sequence[float]
) -> None:
    assert seen(offline()) == set()
    assert name in seen(offline(**{name: odd}))


def test_the_gradient_of_an_epochs_last_few_examples_is_no_spike() -> None:
    norms: list[float] = [1.0] * (STEPS - 1) + [60.0]
    few, usual = [32.0] * (STEPS - 1) + [1.0], [32.0] * STEPS
    assert "grad_norm_policy" in seen(align_run({"grad_norm_policy": norms, "examples": usual}))
    assert "grad_norm_policy" not in seen(align_run({"grad_norm_policy": norms, "examples": few}))


def evaluated(**after: float) -> RunRecord:
    figures = {"sequences": 80.0, "kl": 0.0, "entropy": 1.5, "length": 30.0, "ended": 0.97, "distinct_2": 0.8,
               "length_reward_correlation": 0.1}  # fmt: skip
    sampled: dict[str, Any] = {"reference": figures, "policy": figures | {"kl": 5.0} | after}
    return RunRecord("evaluate-001", "evaluate", result={"sampled": sampled, "policy": "align-003"})


def test_what_an_evaluation_saw_of_the_answers_is_a_finding() -> None:
    assert diagnose(evaluated()).findings == ()
    for after, cause in (
        ({"distinct_2": 0.02}, "policy-collapsed"),
        ({"distinct_2": 0.5}, "answers-other-than-reference"),
        ({"length": 60.0}, "answers-other-than-reference"),
        ({"length_reward_correlation": 0.6, "length": 60.0}, "length-is-paid"),
    ):
        found = diagnose(evaluated(**after))
        assert found.findings[0].causes[0].id == cause
        assert bool(found.alarms) is (cause == "policy-collapsed"), "a change is a note and no alarm"
    collapsed = diagnose(evaluated(distinct_2=0.02)).findings[0]
    assert collapsed.action.command == "prefloop diagnose align-003"


def test_a_reward_model_that_is_surer_than_it_is_right_is_noted() -> None:
    losses = {"heldout_log_loss": series_of([(n, 0.6 + 0.05 * n) for n in range(6)])}
    found = diagnose(RunRecord("reward-001", "reward", "running", metrics=losses))
    assert [s.rule for f in found.findings for s in f.symptoms] == ["heldout-too-sure"] and not found.alarms
