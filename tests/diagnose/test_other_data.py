"""What real runs on other data and models look like, where they are well: nothing of it is an alarm."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.diagnose.runs import STEPS, align_run

from prefloop.diagnose.diagnosis import Diagnosis, diagnose
from prefloop.diagnose.records import RunRecord, series_of
from prefloop.diagnose.statistics import spikes


def of(diagnosis: Diagnosis, rule: str) -> str | None:
    """The severity of a rule's symptom; None where it saw nothing."""
    return next((s.severity for f in diagnosis.findings for s in f.symptoms if s.rule == rule), None)


# A model of stories goes on for hundreds of tokens. Its continuations are cut, as they were when people ranked them.
CUT = {"ended": [0.0] * STEPS, "length": [48.0] * STEPS, "eval_ended": [0.0] * 3}


@pytest.mark.parametrize(
    ("ends", "missing_eos", "severity"),
    [
        (False, "subtract", "note"),
        (True, "off", "note"),
        (None, "off", "note"),
        (True, "subtract", "error"),
        (None, "subtract", "error"),  # a run of an older version
    ],
)
def test_answers_without_an_end_are_an_error_only_of_a_model_that_knows_one(
    ends: bool | None, missing_eos: str, severity: str
) -> None:
    run = replace(align_run(CUT, {"max_tokens": 48, "missing_eos": missing_eos}), ends=ends)
    found = diagnose(run)
    assert of(found, "never-ends") == severity
    assert of(found, "cut-off") == ("note" if severity == "note" else "warning")
    if ends is False:
        assert found.findings[0].causes[0].id == "answers-cut"


def test_a_gradient_that_begins_high_and_falls_has_no_spike() -> None:
    falls = [22.0, 20.0, 19.4, 20.6, 14.3, 9.0, 4.0, 2.0, 1.0, *[0.6] * 20]
    points = [*enumerate(falls, 1)]
    reward = RunRecord("reward-001", "reward", metrics={"grad_norm_reward": series_of(points)})
    assert of(diagnose(reward), "gradient-spikes") is None
    assert not spikes(series_of(points), 20, 5.0).any()
    points[15] = (16, 30.0)
    assert spikes(series_of(points), 20, 5.0).nonzero()[0].tolist() == [15]
    points[0], points[15] = (1, 600.0), (16, 0.6)
    assert spikes(series_of(points), 20, 5.0).nonzero()[0].tolist() == [0]
    assert not spikes(series_of([(1, 50.0)]), 20, 5.0).any()


def test_a_cause_that_is_less_likely_than_all_others_is_named_as_a_guess() -> None:
    sure = diagnose(align_run({"kl_coefficient": [0.0] * STEPS})).findings[0]
    assert sure.confidence > 0.5 and sure.title == sure.causes[0].title
    unsure = replace(sure, causes=(replace(sure.causes[0], confidence=0.4),))
    assert unsure.title == "Perhaps the KL term is off, or far too small"
    wild = replace(sure, causes=(replace(sure.causes[0], confidence=0.1),))
    assert wild.title == sure.symptoms[0].said


def test_the_gradient_of_a_sequence_is_measured_by_its_length() -> None:
    steep = {"grad_norm_policy": [35.0] * STEPS}
    assert of(diagnose(align_run(steep, {"algorithm": "rloo"})), "gradient-large") is None
    assert of(diagnose(align_run(steep, {"algorithm": "grpo"})), "gradient-large") == "warning"
    steep = {"grad_norm_policy": [3000.0] * STEPS}
    assert of(diagnose(align_run(steep, {"algorithm": "rloo"})), "gradient-large") == "warning"


def test_a_rise_that_is_likelier_than_none_is_only_noted_where_it_is_not_sure() -> None:
    few = {"eval_sequences": [26.0] * 3}  # two standard errors are 0.45
    assert of(diagnose(align_run({**few, "eval_reward": [0.0, 0.3, 0.5]})), "reward-flat") is None
    assert of(diagnose(align_run({**few, "eval_reward": [0.0, 0.1, 0.3]})), "reward-flat") == "note"
    still = {**few, "eval_reward": [0.0, 0.1, 0.2], "reward": [0.1, 0.0] * (STEPS // 2)}
    assert of(diagnose(align_run(still)), "reward-flat") == "warning"
    assert of(diagnose(align_run({**still, "reward": [0.02 * n for n in range(STEPS)]})), "reward-flat") == "note"


def test_a_critic_with_a_new_head_may_start_from_noise() -> None:
    """PPO on a function has no reward model to start its critic from."""
    noise = {"explained_variance": [-21.0, -7.6, -2.3, *[-0.1] * (STEPS - 3)]}
    assert of(diagnose(align_run(noise)), "critic-bad-start") == "warning"
    assert of(diagnose(align_run(noise, {"reward": "sentiment.py:score"})), "critic-bad-start") == "note"


@pytest.mark.parametrize(
    ("longer", "low", "severity"), [(0.38, 0.66, "note"), (0.38, 0.61, "warning"), (0.55, 0.66, "warning")]
)
def test_length_is_no_alarm_where_people_prefer_it_and_the_model_knows_more(
    longer: float, low: float, severity: str
) -> None:
    """The naturalness of E2E: people prefer the shorter text in 62 % of pairs, and the model is right on 70 %."""
    heldout = {"accuracy": 0.7, "low": low, "high": 0.74, "pairs": 860, "longer_wins": {"share": longer, "pairs": 860}}
    heldout |= {"longer_won": {"share": 0.47, "pairs": 320}, "shorter_won": {"share": 0.84, "pairs": 540}}
    run = RunRecord("reward-001", "reward", result={"heldout": heldout})
    assert of(diagnose(run), "reward-likes-length") == severity


@pytest.mark.parametrize(
    ("settings", "metrics", "cause"),
    [
        # A temperature of 0.1 makes log-ratios ten times larger: KL jumps, and the critic's returns with it.
        ({"temperature": 0.1}, {"kl": [0.5, 1.0, 9.6, *[4.0] * (STEPS - 3)]}, "temperature-set"),
        ({"prompts": 2, "k": 2}, {"explained_variance": [-9.0] * 4 + [0.1] * (STEPS - 4)}, "batch-too-small"),
        ({"weight_decay": 1.0, "minibatches": 16}, {"entropy": [0.5 + 0.05 * n for n in range(STEPS)]}, "decay-pulls"),
    ],
)
def test_a_setting_that_is_far_out_is_named_before_what_it_causes(
    settings: dict[str, Any], metrics: dict[str, Any], cause: str
) -> None:
    found = diagnose(align_run(metrics, settings)).findings
    assert found[0].causes[0].id == cause and len(found[0].symptoms) == 2
    assert found[0].action.command and found[0].symptoms[0].kind == "setting"


def test_one_large_update_at_the_beginning_is_none_of_a_rate_that_is_too_high() -> None:
    small = [0.001] * STEPS
    for first, severity in (([0.15], None), ([0.15, 0.2], "warning")):
        moved = {"approx_kl": [*first, *small][:STEPS]}
        assert of(diagnose(align_run(moved)), "update-large") == severity
    assert of(diagnose(align_run({"approx_kl": [*small[:8], 0.15, *small][:STEPS]})), "update-large") == "warning"
    assert of(diagnose(align_run({"approx_kl": [0.04]})), "update-large") is None


def test_an_error_of_the_scorer_is_told_from_others_and_the_command_goes_on_with_the_same_settings() -> None:
    command = "/venv/bin/prefloop align --set align.reward=mine.py:score"
    for reason, cause in (("scorer mine.py:score failed: TimeoutError: timed out", "scorer-raised"),
                          ("out of memory", "stopped-by-an-error")):  # fmt: skip
        run = align_run(status="failed", manifest={"reason": reason, "command": command})
        (found,) = diagnose(run).findings
        assert found.causes[0].id == cause
        assert found.action.command == "prefloop align --set align.reward=mine.py:score"


def test_a_reward_model_that_few_held_out_pairs_measure_needs_more_rankings() -> None:
    """HH with 538 pairs: 55.6 % of 63 held-out pairs, 42.9 % to 68.3 %."""
    heldout = {"accuracy": 0.556, "low": 0.429, "high": 0.683, "pairs": 63, "prompts": 63}
    run = RunRecord("reward-001", "reward", result={"heldout": heldout, "lists": 538, "criterion": "preference"})
    (found,) = diagnose(run).findings
    assert found.causes[0].id == "lists-few" and found.action.command == "prefloop prioritise"


def test_a_function_that_measures_something_else_than_people_ranked_is_noted() -> None:
    for reward, severity, cause in (("positive", "note", "function-other-than-people"), (None, "warning", None)):
        found = diagnose(align_run({"eval_ranked_accuracy": [0.52]}, {"reward": reward}))
        assert of(found, "scorer-at-chance") == severity
        assert cause is None or found.findings[0].causes[0].id == cause
