"""Settings: what is left out is none, a fixed set is a fixed set, and what is wrong is said with what to write."""

from __future__ import annotations

import pytest

from prefloop.config import Config, apply_override, make_config
from prefloop.errors import ConfigError

OPTIONAL = [
    (section, key)
    for section, field in Config.model_fields.items()
    for key, of in getattr(field.annotation, "model_fields", {}).items()
    if of.get_default(call_default_factory=True) is None
]


@pytest.mark.parametrize(("section", "key"), OPTIONAL)
def test_a_setting_that_may_be_left_out_cannot_be_empty(section: str, key: str) -> None:
    with pytest.raises(ConfigError, match=rf'{section}\.{key} = "" says nothing: leave the line out'):
        make_config({section: {key: ""}})


def test_no_setting_is_empty_unless_somebody_sets_it() -> None:
    for section in Config():
        assert "" not in dict(section[1]).values(), section[0]


def test_none_takes_a_setting_out_again_and_only_where_it_may_be_left_out() -> None:
    table = {"evaluate": {"scorer": "length"}, "model": {"chat": "auto"}}
    for override in ("evaluate.scorer=none", "model.chat=none"):
        apply_override(table, override)
    config = make_config(table)
    assert config.evaluate.scorer is None and config.model.chat == "none"


def test_a_misspelt_stage_is_an_error_with_the_nearest_right_one() -> None:
    with pytest.raises(ConfigError, match='run.stages.1: .*Did you mean "evaluate"'):
        make_config({"run": {"stages": ["sft", "evalaute"]}})
