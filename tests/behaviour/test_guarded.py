"""A user's check may raise, return nonsense, print, end Python or never return: the row is named, the rest goes on."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from prefloop.behaviour.chosen import Chosen, chosen
from prefloop.behaviour.comparing import Answers, compare
from prefloop.behaviour.registry import Failed, Pair
from prefloop.config_behaviour import Behaviour
from prefloop.errors import ConfigError
from prefloop.results import BehaviourReport

MINE = """
import os, time

def polite(prompt, answer):
    print("said to the terminal, which is no answer")
    if answer == "raise":
        return 1 / 0
    if answer == "text":
        return "very"
    if answer == "nan":
        return float("nan")
    if answer == "sleep":
        time.sleep(600)
    if answer == "exit":
        os._exit(3)
    return "please" in answer

polite.unit = "share"

def rude(prompt, answer):
    return "now" in answer

rude.worse = "higher"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path


def checked(folder: Path, answers: list[str], **settings: object) -> BehaviourReport:
    how = {"checks": ["length"], "functions": ["mine.py:polite"], **settings}
    checks = chosen(Behaviour.model_validate(how), folder)
    theirs = [[Pair(f"Question {n}", "please", f"p{n}")] for n in range(len(answers))]
    ours = [[Pair(f"Question {n}", text, f"p{n}")] for n, text in enumerate(answers)]
    return compare(checks, [Answers(ours, theirs)], resamples=100)


def test_a_function_of_yours_is_a_check_like_any_other(folder: Path) -> None:
    report = checked(folder, ["go now"] * 12, functions=["mine.py:polite", "mine.py:rude"], max_drop={"polite": 0.02})
    found = {row.check: row for row in report.checks}
    assert found["polite"].broken and (found["polite"].policy, found["polite"].reference) == (0, 1)
    assert found["rude"].verdict == "regressed" and not found["rude"].broken
    assert report.problems == ()


def test_answers_on_which_it_fails_are_named_and_the_others_count(folder: Path) -> None:
    answers = ["please"] * 8 + ["raise", "text", "nan", "exit", "sleep", "please"]
    began = time.monotonic()
    report = checked(folder, answers, time_limit=1.0)
    assert time.monotonic() - began < 60
    found = {row.check: row for row in report.checks}
    assert found["polite"].change.n == 9 and found["length"].change.n == 14
    told = "\n".join(report.problems)
    for place, why in (
        (8, "ZeroDivisionError"),
        (9, "no number"),
        (10, "returned nan"),
        (11, "ended Python (3)"),
        (12, "within 1 seconds"),
    ):
        assert f"first on prompt p{place} ('Question {place}')" in told and why in told
    assert len(report.problems) <= 5


def test_one_that_never_returns_is_given_up(folder: Path) -> None:
    (check,) = (c for c in _polite(folder, 0.3).checks if c.name == "polite")
    values = check.measure([Pair("?", "sleep")] * 6 + [Pair("?", "please")])
    reasons = [value.reason for value in values if isinstance(value, Failed)]
    assert len(reasons) == 7 and [r.startswith("not tried") for r in reasons] == [False] * 3 + [True] * 4


def _polite(folder: Path, limit: float) -> Chosen:
    return chosen(Behaviour(functions=("mine.py:polite",), time_limit=limit), folder)


def test_a_bound_that_could_not_be_checked_is_said(folder: Path) -> None:
    report = checked(folder, ["raise"] * 3, max_drop={"polite": 0.02})
    (said,) = report.unchecked
    assert report.broken == () and 'the bound on "polite" could not be checked on "all": the check failed on 3' in said


def test_one_odd_answer_leaves_a_bound_checked_and_many_do_not(folder: Path) -> None:
    for odd, unchecked in ((2, 0), (3, 1)):
        report = checked(folder, ["raise"] * odd + ["please"] * (20 - odd), max_drop={"polite": 0.02})
        assert len(report.unchecked) == unchecked


@pytest.mark.parametrize(
    ("text", "said"),
    [("def other(): pass", "no function polite"), ("1/0", "ZeroDivisionError"), ("def", "SyntaxError")],
)
def test_a_file_that_cannot_be_used_is_an_error_before_anything_is_sampled(folder: Path, text: str, said: str) -> None:
    (folder / "mine.py").write_text(text)
    with pytest.raises(ConfigError, match=said):
        _polite(folder, 1)


def test_patterns_are_banned_and_required_also_one_that_takes_for_ever(folder: Path) -> None:
    settings = {"functions": [], "banned": [r"\bnow\b", "(a+)+b"], "required": ["^Dear", "please$"], "time_limit": 1.0}
    report = checked(folder, ["Dear, now please"] * 11 + ["a" * 40], **settings)
    found = {row.check: row for row in report.checks}
    assert (found["banned_patterns"].policy, found["banned_patterns"].reference) == (1, 0)
    assert found["required_patterns"].reference == 0.5 and found["required_patterns"].policy == pytest.approx(11 / 12)
    assert any("p11" in problem and "within 1 seconds" in problem for problem in report.problems)


def test_the_identity_follows_the_file(folder: Path) -> None:
    before = _polite(folder, 1).identity
    (folder / "mine.py").write_text(MINE.replace("please", "kindly"))
    assert _polite(folder, 1).identity != before and chosen(Behaviour(), folder).identity == ""
