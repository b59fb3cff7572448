"""Win rates and gains are over prompts, honest where these are few, and say what could have been seen."""

from __future__ import annotations

import math

import numpy as np
import pytest

from prefloop.intervals import mean_interval, win_rate
from prefloop.training.policy_evaluation import validation_and_test, wins
from prefloop.types import Prompt


def test_answers_to_one_prompt_are_one_observation() -> None:
    """Eight copies of one answer say no more than the answer."""
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(0.4, 1, (40, 1)), rng.normal(0, 1, (40, 1))
    once, eight = (win_rate(ours.repeat(k, 1), theirs.repeat(k, 1), 500, 1) for k in (1, 8))
    assert once == eight and once["n"] == 40


def test_more_answers_a_prompt_narrow_the_interval_and_what_can_be_seen() -> None:
    rng = np.random.default_rng(0)
    gaps = rng.normal(0.1, 0.05, (40, 1)) + rng.normal(0, 1, (40, 8))
    one, eight = mean_interval(gaps[:, 0], 500, 1), mean_interval(gaps.mean(1), 500, 1)
    assert eight["detectable"] < one["detectable"] / 2
    assert eight["high"] - eight["low"] < (one["high"] - one["low"]) / 2


def test_the_smallest_effect_is_found_four_times_in_five() -> None:
    rng = np.random.default_rng(3)
    found = 0
    for seed in range(200):
        values = rng.normal(0.28, 1.0, 100)  # The mean is 2.8 standard errors.
        interval = mean_interval(values, 200, seed)
        assert interval["detectable"] == pytest.approx(2.8 * values.std(ddof=1) / 10)
        found += interval["low"] > 0
    assert 0.7 < found / 200 < 0.9


def test_one_prompt_and_prompts_that_all_came_out_alike_have_an_interval_that_says_so() -> None:
    one = mean_interval([0.3], 100, 0)
    assert (one["low"], one["high"]) == (-math.inf, math.inf)
    assert win_rate([1.0], [0.0], 100, 0)["low"] < 0.5
    all_won = win_rate([1.0] * 20, [0.0] * 20, 100, 0)
    assert 0.8 < all_won["low"] < all_won["mean"] == 1.0 and all_won["detectable"] > 0
    few = mean_interval([0.1, 0.2, 0.3], 100, 0)
    # Student's t with two degrees of freedom gives 4.3 standard errors.
    assert few["low"] < -0.04 and few["high"] > 0.44


def test_a_draw_counts_half() -> None:
    assert win_rate([1.0] * 10, [1.0] * 10, 100, 0)["mean"] == 0.5 == wins([1.0, 2.0], [1.0, 2.0])
    assert wins([1.0, 3.0], [0.0, 3.0]) == 0.75


@pytest.mark.parametrize("count", range(2, 8))
def test_two_held_out_prompts_or_more_are_never_in_both_halves(count: int) -> None:
    for start in range(40):
        prompts = [Prompt(f"Question {start} {n}?") for n in range(count)]
        first, second = validation_and_test(prompts)
        assert first and second and not set(first) & set(second)
        assert sorted(p.id for p in [*first, *second]) == sorted(p.id for p in prompts)
