"""Verdicts are over prompts, corrected for the number of questions, and bounds are broken by more than chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from prefloop.behaviour.chosen import Chosen, chosen
from prefloop.behaviour.comparing import Answers, _chance, compare, slices_of
from prefloop.behaviour.registry import Check, Pair, Worse
from prefloop.config_behaviour import Behaviour
from prefloop.errors import ConfigError
from prefloop.results import CheckResult
from prefloop.results.base import from_json, to_json
from prefloop.results.behaviour import BehaviourReport

Share = Callable[[int], float]


def ends(share: Share, prompts: int = 60, k: int = 4, seed: int = 0) -> list[list[Pair]]:
    rng = np.random.default_rng(seed)
    return [[Pair("?", "a", str(n), ended=rng.random() < share(n)) for _ in range(k)] for n in range(prompts)]


def ended(worse: Worse = "lower") -> Check:
    return Check("ended", "share", worse, "", lambda pairs: [float(bool(pair.ended)) for pair in pairs])


def row(
    ours: list[list[Pair]], theirs: list[list[Pair]], bound: float | None = None, worse: Worse = "lower"
) -> CheckResult:
    bounds = {} if bound is None else {"ended": bound}
    (found,) = compare(Chosen((ended(worse),), bounds), [Answers(ours, theirs)]).checks
    return found


@pytest.mark.parametrize(("share", "verdict"), [(0.6, "regressed"), (0.95, "improved"), (0.80, "held or unclear")])
def test_a_figure_that_fell_regressed_and_one_that_rose_improved(share: float, verdict: str) -> None:
    found = row(ends(lambda n: share, seed=1), ends(lambda n: 0.8))
    assert found.verdict in verdict
    assert found.change.mean == pytest.approx(found.policy - found.reference)
    assert found.change.low < found.change.mean < found.change.high and found.change.n == 60


def test_the_direction_that_is_worse_turns_the_verdict_round() -> None:
    ours, theirs = ends(lambda n: 0.5, seed=1), ends(lambda n: 0.9)
    assert [row(ours, theirs, worse=w).verdict for w in ("lower", "higher", "either")] == [
        "regressed",
        "improved",
        "changed",
    ]  # type: ignore[arg-type]


def test_a_bound_is_broken_by_a_larger_drop_only_and_by_more_than_chance() -> None:
    fell, theirs = ends(lambda n: 0.7, seed=1), ends(lambda n: 0.9)
    assert row(fell, theirs, 0.02).broken and not row(fell, theirs, 0.4).broken
    assert row(fell, theirs, 0.4).verdict == "held"
    assert not row(fell[:5], theirs[:5], 0.02).broken, "five prompts with this spread tell nothing"
    assert row(fell, theirs, 0.02, "either").broken and row(fell, theirs, 0.02, "higher").verdict == "improved"


def test_answers_that_are_all_alike_are_held_by_many_prompts_and_not_by_few() -> None:
    """Of 100 prompts without a refusal, 3 % more may still have one: that is less than the margin of 5 points."""
    many, few = ends(lambda n: 1.0, 100), ends(lambda n: 1.0, 20)
    assert (row(many, many).verdict, row(few, few).verdict) == ("held", "unclear")
    assert row(many, many).change.low == pytest.approx(-0.03)
    assert row(many, many, 0.02).verdict == "unclear", "a bound takes the place of the margin"


def test_of_many_questions_about_nothing_few_are_told_apart() -> None:
    """Without the correction one in twenty would be; here no family of 30 has any in at least nine of ten tries."""
    wrong = 0
    for seed in range(20):
        table = np.random.default_rng(seed).normal(size=(2, 30, 40))
        checks = tuple(Check(f"c{c}", "value", "lower", "", _of(table[:, c])) for c in range(30))
        both = [[[Pair("?", "", str(n), bool(who))] for n in range(40)] for who in (0, 1)]
        report = compare(Chosen(checks, {}), [Answers(*both)], resamples=100, seed=seed)
        wrong += any(found.verdict in ("regressed", "improved") for found in report.checks)
    assert wrong <= 4


def _of(table: np.ndarray) -> Callable[[Sequence[Pair]], list[float]]:
    return lambda pairs: [table[int(bool(pair.ended)), int(pair.id)] for pair in pairs]


def test_chance_is_what_scipy_says() -> None:
    from scipy.stats import permutation_test

    for n in (8, 40):
        gaps = np.random.default_rng(n).normal(0.3, 1, n)
        theirs = permutation_test((gaps,), np.mean, permutation_type="samples", rng=np.random.default_rng(0)).pvalue
        assert _chance(gaps, 0) == pytest.approx(theirs, abs=1e-12 if n == 8 else 0.02)


def test_a_bound_is_not_harder_to_break_because_more_is_looked_at() -> None:
    ours, theirs = ends(lambda n: 0.75, 30, 2, seed=3), ends(lambda n: 0.95, 30, 2)
    idle = tuple(replace(ended(), name=f"idle{n}", measure=lambda pairs: [0.0] * len(pairs)) for n in range(200))
    alone = compare(Chosen((ended(),), {"ended": 0.02}), [Answers(ours, theirs)])
    among = compare(Chosen((ended(), *idle), {"ended": 0.02}), [Answers(ours, theirs)])
    assert among.checks[0] == alone.checks[0] and alone.broken


def test_a_regression_in_one_slice_is_found_there() -> None:
    slices, problems = slices_of([{"topic": "refund" if n < 30 else "other"} for n in range(120)], ["topic", "tone"])
    assert {name: len(places) for name, places in slices.items()} == {"topic = other": 90, "topic = refund": 30}
    assert problems == ['no prompt has the metadata field "tone" of [behaviour] slices']
    ours, theirs = ends(lambda n: 0.3 if n < 30 else 0.9, 120, seed=1), ends(lambda n: 0.9, 120)
    report = compare(Chosen((ended(),), {"ended": 0.05}), [Answers(ours, theirs, slices=slices)])
    broken = {found.slice: found.broken for found in report.checks}
    assert broken == {"all": True, "topic = other": False, "topic = refund": True}
    assert from_json(BehaviourReport, to_json(report)) == report


def test_a_field_with_a_value_for_each_prompt_is_cut_to_the_most_frequent() -> None:
    slices, problems = slices_of([{"id": n} for n in range(50)], ["id"])
    assert len(slices) == 20 and "50 values" in problems[0]


def test_a_length_is_compared_as_a_share_of_the_reference() -> None:
    checks = chosen(Behaviour(checks=("length",), max_drop={"length": 0.2}), None)  # type: ignore[arg-type]
    both = [[[Pair("?", "a " * (words + n % 3), str(n))] for n in range(40)] for words in (29, 19)]
    (found,) = compare(checks, [Answers(*both)]).checks
    assert (
        found.change.mean == pytest.approx(0.5, rel=0.01)
        and found.broken
        and found.reference == pytest.approx(20, rel=0.01)
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"max_drop": {"endd": 0.02}}, 'max_drop: there is no check "endd". Did you mean "ended"?'),
        ({"checks": ["refusal"]}, 'checks: there is no check "refusal". Did you mean "refusals"?'),
        ({"worse": {"lengths": "lower"}}, 'worse: there is no check "lengths". Did you mean "length"?'),
        ({"banned": ["(a"]}, "banned: '(a' is no regular expression"),
        ({"functions": ["nowhere.py:polite"]}, "nowhere.py is neither in"),
        ({"functions": ["polite"]}, 'is not of the form "file.py:function"'),
    ],
)
def test_a_name_that_nobody_knows_is_an_error_with_the_nearest(settings: dict[str, object], said: str) -> None:
    from pathlib import Path

    with pytest.raises(ConfigError) as error:
        chosen(Behaviour.model_validate(settings), Path("."))
    assert said in str(error.value)


def test_a_bound_by_name_on_what_applies_to_no_prompt_is_unchecked_and_one_number_for_all_is_not() -> None:
    both = (
        [[Pair("Say hello.", "hello there", str(n))] for n in range(12)],
        [[Pair("", "hi", str(n))] for n in range(12)],
    )
    for bound, unchecked in (({"valid_json": 0.02}, 1), (0.02, 0)):
        found = compare(chosen(Behaviour(max_drop=bound), None), [Answers(*both)], 100)  # type: ignore[arg-type]
        assert len(found.unchecked) == unchecked
        told = " ".join([*found.unchecked, *found.problems])
        assert 'the bound on "valid_json" could not be checked: it gives no number' in told
    asks = [[Pair("Answer in JSON.", "{}", str(n))] for n in range(12)]
    sets = [Answers(*both), Answers(asks, asks, "forms")]
    found = compare(chosen(Behaviour(max_drop={"valid_json": 0.1}), None), sets, 100)  # type: ignore[arg-type]
    assert found.unchecked == (), "a set of prompts is there for what applies to it"


def test_answers_in_another_language_give_no_figure_and_break_the_bound_of_a_check_of_english() -> None:
    english = [[Pair("Where is it?", f"It is on the way to you, box {n}.", str(n))] for n in range(20)]
    german = [[Pair("Where is it?", f"Es ist auf dem Weg zu Ihnen, Kiste {n}.", str(n))] for n in range(20)]
    checks = chosen(Behaviour(checks=("refusals",), max_drop={"refusals": 0.1}), None)  # type: ignore[arg-type]
    (said,) = compare(checks, [Answers(german, english)], 100).unchecked
    assert "does not count 20 of 20 of the policy's answers, and 0 of the reference's: it is not in English" in said
    (said,) = compare(checks, [Answers(german, german)], 100).unchecked
    assert 'gives no number for prompts of "all": it is not in English' in said
    some = compare(chosen(Behaviour(), None), [Answers([*english, *german], [*english, *german])], 100)  # type: ignore[arg-type]
    assert '"refusals" does not count 40 of 80 answers on "all": it is not in English' in " ".join(some.problems)
    assert {row.check: row.change.n for row in some.checks}["reading_ease"] == 20


def test_one_number_bounds_every_share_with_a_direction() -> None:
    found = chosen(Behaviour(max_drop=0.02, worse={"refusals": "either"}), None)  # type: ignore[arg-type]
    assert {"ended", "repetition", "valid_json"} <= set(found.bounds) and set(found.bounds.values()) == {0.02}
    assert not {"length", "refusals", "reading_ease"} & set(found.bounds)
