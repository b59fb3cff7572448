"""No option of an online algorithm is dead: another value changes a gradient, a metric, or the next step's algorithm.

It may also be refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest
import torch
from toy_batches import annotated, learn, ready

from prefloop.algorithms.registry import make, names, options_of
from prefloop.batch import LogprobBatch
from prefloop.errors import ConfigError

# Another value of every option there is (in order, where one is some method's default), and the other options that it
# needs to matter.
OTHER: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "baseline": (["batch"], {}),
    "beta": ([0.7], {}),
    "clip": ([0.01], {}),
    "clip_high": ([0.02], {}),
    "critic_warmup": ([1], {}),
    "drop_constant": ([True, False], {}),
    "dual_clip": ([1.01], {}),
    "entropy_coef": ([0.3], {}),
    "gamma": ([0.8], {}),
    "keep": ([2], {}),
    "kl": ([0.4], {}),
    "kl_estimator": (["k1"], {"kl": 0.3, "kl_in": "loss"}),
    "kl_horizon": ([50.0], {"kl": 0.3, "kl_target": 6.0}),
    "kl_in": (["loss", "reward"], {"kl": 0.3}),
    "kl_max": ([0.3], {"kl": 0.3, "kl_target": 6.0}),
    "kl_min": ([0.3], {"kl": 0.3, "kl_target": 24.0}),
    "kl_target": ([6.0], {"kl": 0.3}),
    "kl_unbiased": ([False], {"kl": 0.3, "kl_in": "loss"}),
    "label_smoothing": ([0.2], {}),
    "labels": (["soft"], {}),
    "lam": ([0.5], {}),
    "length_normalised": ([True], {}),
    "loss_type": (["robust"], {"label_smoothing": 0.2}),
    "length": ([7], {}),
    "per_prompt": ([1], {"threshold": 0.0}),
    "sft": ([0.5], {}),
    "threshold": ([0.5], {}),
    "value_clip": ([0.01], {}),
    "value_coef": ([0.7], {}),
    "whiten_advantages": ([True, False], {}),
    "whiten_rewards": ([True], {}),
}
EVERY = [(name, option) for name in names("online") for option in options_of(make(name))]


@cache
def batch() -> LogprobBatch:
    """Return the toy batch, in which one group is constant."""
    usual = annotated()
    return dataclasses.replace(usual, reward=torch.where(usual.group == 1, 0.25, usual.reward))


def result(name: str, options: Mapping[str, Any]) -> Any:
    """Return all that an algorithm does with a batch, as numbers that compare."""
    algorithm = make(name, options)
    logged = algorithm.credit(batch())[1]
    gradient, metrics = learn(algorithm, ready(algorithm, batch()))
    following = algorithm.adapt({"kl": 12.0, "sequences": 32.0})
    moved = {key: value for key, value in options_of(following).items() if value != getattr(algorithm, key)}
    sums = {key: float(value.double().pow(2).sum()) for key, value in gradient.items()}
    return dict(logged), sums, dict(metrics), moved


@cache
def usually(name: str, options: tuple[tuple[str, Any], ...]) -> Any:
    return result(name, dict(options))


@pytest.mark.parametrize(("name", "option"), EVERY)
def test_another_value_of_an_option_changes_something(name: str, option: str) -> None:
    assert option in OTHER, f"add {option} and another value of it to OTHER"
    values, context = OTHER[option]
    known = options_of(make(name))
    usual = {key: given for key, given in context.items() if key in known}
    value = next(given for given in values if given != (known | usual)[option])
    plain = usually(name, tuple(usual.items()))
    try:
        changed = result(name, {**usual, option: value})
    except ConfigError:
        return
    assert changed != plain, f"[algorithms.{name}] {option} is ignored"


def test_the_table_names_no_option_that_has_gone() -> None:
    assert set(OTHER) == {option for _, option in EVERY}


@pytest.mark.parametrize("name", names())
def test_a_number_outside_of_its_range_is_refused(name: str) -> None:
    numbers = {key for key, value in options_of(make(name)).items() if isinstance(value, float)}
    for key in numbers | (options_of(make(name)).keys() & {"clip_high", "dual_clip"}):
        for value in (float("nan"), -1.0):
            if (key, value) != ("threshold", -1.0):  # A reward may be any number.
                with pytest.raises(ConfigError, match=key):
                    make(name, {key: value})
