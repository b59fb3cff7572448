"""Settings: what is left out is none, a fixed set is a fixed set, and what is wrong is said with what to write."""

from __future__ import annotations

from typing import Any

import pytest

from prefloop.config import Config, apply_override, make_config
from prefloop.config_problems import as_now, describe
from prefloop.errors import ConfigError
from prefloop.types import digest

OPTIONAL = [key.rsplit(".", 1) for key, _, default, _ in describe(Config) if default == "None"]


@pytest.mark.parametrize(("section", "key"), OPTIONAL)
def test_a_setting_that_may_be_left_out_cannot_be_empty(section: str, key: str) -> None:
    with pytest.raises(ConfigError, match=rf'{section}\.{key} = "" says nothing: leave the line out'):
        make_config({section: {key: ""}})


def test_no_setting_is_empty_unless_somebody_sets_it() -> None:
    assert [key for key, _, default, _ in describe(Config) if default == repr("")] == []


def test_none_takes_a_setting_out_again_and_only_where_it_may_be_left_out() -> None:
    table = {"evaluate": {"scorer": "length"}, "model": {"chat": "auto"}}
    for override in ("evaluate.scorer=none", "model.chat=none"):
        apply_override(table, override)
    config = make_config(table)
    assert config.evaluate.scorer is None and config.model.chat == "none"


def test_a_table_for_a_section_changes_what_it_names_and_a_mapping_is_a_setting_as_a_whole() -> None:
    table: dict[str, Any] = {"align": {"steps": 3, "rollout": {"k": 2, "prompts": 5}, "reward_weights": {"a": 1.0}}}
    for override in ("align.rollout={k=4}", "align={lr=0.1, rollout={epochs=2}}", "align.reward_weights={b=2.0}"):
        apply_override(table, override)
    assert table["align"] == {
        "steps": 3, "lr": 0.1, "rollout": {"k": 4, "prompts": 5, "epochs": 2}, "reward_weights": {"b": 2.0}
    }  # fmt: skip


def test_a_misspelt_stage_is_an_error_with_the_nearest_right_one() -> None:
    with pytest.raises(ConfigError, match='run.stages.1: .*Did you mean "evaluate"'):
        make_config({"run": {"stages": ["sft", "evalaute"]}})


MOVED = {
    "rollout": (
        "prompts",
        "k",
        "temperature",
        "missing_eos",
        "missing_eos_penalty",
        "epochs",
        "minibatches",
        "staleness",
    ),
    "evaluation": ("eval_every", "eval_prompts", "kl_budget"),
}


@pytest.mark.parametrize(("part", "name"), [(part, name) for part, names in MOVED.items() for name in names])
def test_a_setting_in_its_place_of_old_is_an_error_that_says_where_it_stands_now(part: str, name: str) -> None:
    """It is one in a file and on the command line."""
    table: dict[str, Any] = {}
    apply_override(table, f"align.{name}=3")
    for asked in (table, {"align": {name: 3}}):
        with pytest.raises(ConfigError) as error:
            make_config(asked)
        assert f'"align.{name}"' in str(error.value) and f"Write {name} in [align.{part}]" in str(error.value)
        assert f"--set align.{part}.{name}=VALUE" in str(error.value)
    default = getattr(getattr(Config().align, part), name)
    assert make_config({"align": {part: {name: default}}}) == Config()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"align": {"algorithm": "dpo", "epochs": 2}}, r"An offline algorithm has passes in \[align\] instead"),
        ({"align": {"algorithm": "dpo", "prompts": 2}}, r"An offline algorithm has lists in \[align\] instead"),
        ({"align": {"algorithm": "dpo", "steps": 2}}, r"no effect: dpo .*the rankings \[align\] passes times"),
        ({"align": {"num_generations": 8}}, r"Write k in \[align.rollout\], or --set align.rollout.k=VALUE"),
        ({"align": {"rollout": {"max_completion_length": 8}}}, r"Write max_tokens in \[align\]"),
        ({"align": {"evaluation": {"k": 8}}}, r'"align.evaluation.k". Write k in \[align.rollout\]'),
        ({"align": {"temprature": 1}}, 'Did you mean "align.rollout.temperature"'),
        ({"align": {"rolout": {"k": 1}}}, 'Did you mean "rollout"'),
        ({"rollout": {"k": 1}}, r"Did you mean \[align.rollout\]"),
        ({"evaluation": {"prompts": 1}}, r'Did you mean \[align.evaluation\] or "evaluate"'),
        ({"align": {"beta": 0.1}}, r"Known: .*Options of an algorithm stand in \[algorithms.NAME\]"),
        ({"sft": {"learning_rate": 1.0}}, r"Write lr in \[sft\]"),
    ],
)
def test_a_setting_that_is_looked_for_elsewhere_is_found(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make_config(asked)


def test_the_settings_of_an_old_run_are_read_where_they_stand_now() -> None:
    old = {"align": {"k": 4, "lr": 0.1, "kl_budget": 3.0, "reward_weights": {"a": 1.0}}, "sft": {"epochs": 2}}
    now = {"rollout": {"k": 4}, "evaluation": {"kl_budget": 3.0}, "lr": 0.1, "reward_weights": {"a": 1.0}}
    assert as_now(old, Config) == {"align": now, "sft": {"epochs": 2}}
    assert as_now(as_now(old, Config), Config) == as_now(old, Config)


def test_the_parts_of_align_decide_as_they_did_when_it_was_one_section() -> None:
    """A run of before is found again: what decides it is the same flat mapping."""
    given = make_config({"align": {"lr": 0.1, "rollout": {"k": 4}, "evaluation": {"eval_every": 3}}}).align.deciding()
    # fmt: skip
    assert {name: given[name] for name in ("lr", "k", "eval_every", "temperature")} == {
        "lr": 0.1,
        "k": 4,
        "eval_every": 3,
        "temperature": 1.0,
    }
    assert not {"rollout", "evaluation", "passes"} & set(given)
    assert digest(Config().align.deciding()) == "a9ab8e8f45a7f9bb"
