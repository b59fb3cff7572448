"""What a finding prints as the next command fits the run that it was found in."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from tests.diagnose.runs import CONFIG, STEPS, align_run

from prefloop.config import load_config
from prefloop.config_align import Align
from prefloop.diagnose.diagnosis import diagnose
from prefloop.diagnose.records import RunRecord
from prefloop.diagnose.registry import causes

FALLING = {
    "reward_customers": [0.1 * n for n in range(STEPS)],
    "reward_policy": [0.5 - 0.03 * n for n in range(STEPS)],
    "eval_reward_policy": [0.52, 0.3, 0.1],
}
BROKEN = {"eval_behaviour_broken": [0.0, 1.0, 1.0], "eval_behaviour_courtesy": [0.6, 0.3, 0.1]}


def printed(run: RunRecord, tmp_path: Path) -> Align:
    """Return the settings that the first finding's command makes of an empty file."""
    command = diagnose(run).findings[0].action.command
    assert command is not None
    words = shlex.split(command)
    assert words[:2] == ["prefloop", "align"] and set(words[2::2]) == {"--set"}
    (tmp_path / "prefloop.toml").write_text("")
    return load_config(tmp_path / "prefloop.toml", words[3::2]).align


def broken(**result: Any) -> RunRecord:
    behaviour = {"functions": ["house.py:courtesy", "house.py:calm"], "max_drop": {"courtesy": 0.05, "calm": 0.05}}
    metrics = {**BROKEN, "eval_behaviour_calm": [0.9, 0.5, 0.4]}
    run = align_run(metrics, result=result)
    return RunRecord(
        "align-001", "align", config={**CONFIG, "behaviour": behaviour}, metrics=run.metrics, result=result
    )


def test_a_criterion_that_falls_gets_the_level_where_the_run_began_as_its_bound(tmp_path: Path) -> None:
    made = printed(align_run(FALLING, {"objective": {"scorers": {"policy": "desk.py:policy"}}},
                             judges={"customers": {}}), tmp_path)  # fmt: skip
    assert made.objective.kind == "constrained" and made.objective.subject_to == {"policy": 0.52}


def test_bounds_that_are_there_already_are_kept_beside_the_new_one(tmp_path: Path) -> None:
    scorers = {"policy": "desk.py:policy", "short": "desk.py:short"}
    objective = {"kind": "lexicographic", "scorers": scorers, "subject_to": {"short": 0.8}}
    made = printed(align_run(FALLING, {"objective": objective}, judges={"customers": {}}), tmp_path)
    assert made.objective.subject_to == {"short": 0.8, "policy": 0.52}


def test_a_check_of_the_users_own_that_breaks_its_bound_becomes_a_criterion_with_that_bound(tmp_path: Path) -> None:
    breaches = [{"step": 7, "bounds": ["courtesy went from 0.6 to 0.1, max_drop is 0.05"]}]
    made = printed(broken(breaches=breaches), tmp_path)
    assert made.objective.scorers == {"courtesy": "house.py:courtesy"}  # and not calm, which may fall
    assert made.objective.subject_to == {"courtesy": 0.55}


def test_where_a_built_in_check_breaks_its_bound_the_policy_is_held_nearer() -> None:
    breaches = [{"step": 7, "bounds": ["ended went from 1 to 0.6, max_drop is 0.05"]}]
    command = diagnose(broken(breaches=breaches)).findings[0].action.command
    assert command == "prefloop align --set algorithms.ppo.kl=0.1"


def test_lists_of_another_policy_are_answered_by_sampling_the_policy_that_the_run_started_from() -> None:
    judges = {"quality": {"from_other_policies": 1.0}}
    run = align_run({"eval_judge": [0.6, 0.5, 0.4]}, round=2, judges=judges)
    finding = next(f for f in diagnose(run).findings if f.causes[0].id == "reward-off-distribution")
    assert finding.action.command == "prefloop sample --round 2"


def test_a_function_that_is_gamed_is_named_in_what_to_do() -> None:
    (cause,) = (cause for cause in causes() if cause.id == "reward-loophole")
    said = cause.act(align_run(config={"reward": "desk.py:courtesy"})).said
    assert said.endswith('without [align] reward = "desk.py:courtesy".')
    assert "[align] reward" not in cause.act(align_run()).said
