"""A new project's settings file is valid, commented, and true to the defaults."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import pytest

from prefloop.config import Config, load_config, make_config
from prefloop.errors import ConfigError, DataError, ModelError
from prefloop.project.project import Project
from prefloop.stages.init import init


def test_the_file_gives_the_defaults_and_the_model(tiny_model: Path, tmp_path: Path) -> None:
    init(tmp_path / "p", str(tiny_model), False)
    config = load_config(tmp_path / "p" / "prefloop.toml")
    assert config.model.path == str(tiny_model)
    assert config.model_copy(update={"model": Config().model, "project": Config().project}) == Config()


def test_every_commented_line_is_the_default_and_may_be_uncommented(tmp_path: Path) -> None:
    init(tmp_path / "p", None, True)
    text = (tmp_path / "p" / "prefloop.toml").read_text()
    bare = re.sub(r"^# (?=\w+ = )", "", text, flags=re.M).replace("# [algorithms.ppo]", "[algorithms.ppo]")
    table = tomllib.loads(bare)
    assert table["algorithms"] == {"ppo": {"kl": 0.05}}
    config = make_config(table)
    assert config.align == Config().align and config.run == Config().run and config.model.init == "scratch"


@pytest.mark.parametrize(
    "name",
    [
        "chat 😀",
        "a \"b\" 'c'",
        "a\\b\\",
        "two\nlines",
        "# no comment",
        "tab\t\x7f",
        "[x]",
        "\u2028é\U0001f468\u200d\U0001f469",
    ],
)
def test_a_project_of_any_name_is_made_and_opened_again(tmp_path: Path, name: str) -> None:
    init(tmp_path / name, None, True, overrides=["crowd.scorer=quality.py:score"])
    with Project.open(tmp_path / name, quiet=True) as project:
        assert project.config.project.name == name
        assert project.config.crowd.scorer == "quality.py:score"


def test_a_folder_name_that_is_no_text_still_makes_a_project(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"latin-\xe9")
    init(folder, None, True)
    assert load_config(folder / "prefloop.toml").project.name == "latin-?"


def test_a_model_inside_the_project_is_named_relative_to_it(tiny_model: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(tiny_model, tmp_path / "p" / "my model")
    init(tmp_path / "p", str(tmp_path / "p" / "my model"), False)
    assert load_config(tmp_path / "p" / "prefloop.toml").model.path == "my model"


def test_a_hub_id_is_kept_as_it_is(tmp_path: Path) -> None:
    outcome = init(tmp_path / "p", "someone/some-model", False)
    assert outcome.hub is True
    assert load_config(tmp_path / "p" / "prefloop.toml").model.path == "someone/some-model"


@pytest.mark.parametrize("name", ["./nothing", "/nothing/here", "a/b/c"])
def test_a_path_that_does_not_exist_is_not_taken_for_a_hub_id(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match="not a folder"):
        init(tmp_path / "p", name, False)


def test_an_existing_project_is_never_overwritten(tmp_path: Path) -> None:
    init(tmp_path / "p", None, True)
    before = (tmp_path / "p" / "prefloop.toml").read_bytes()
    with pytest.raises(ConfigError, match="exists already"):
        init(tmp_path / "p", "someone/other", False)
    assert (tmp_path / "p" / "prefloop.toml").read_bytes() == before


def test_settings_given_are_written_down(tmp_path: Path) -> None:
    given = ["align.steps=7", 'crowd.scorer="a \\"b\\" #c"', "algorithms.ppo.kl=0.2", "align.reward_weights={a=1.0}"]
    init(tmp_path / "p", None, True, overrides=given)
    config = load_config(tmp_path / "p" / "prefloop.toml")
    assert (config.align.steps, config.crowd.scorer) == (7, 'a "b" #c')
    assert config.algorithms == {"ppo": {"kl": 0.2}} and config.align.reward_weights == {"a": 1.0}


def test_a_wrong_setting_leaves_no_folder_behind(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='Did you mean "steps"'):
        init(tmp_path / "p", None, True, overrides=["align.stpes=7"])
    assert not (tmp_path / "p").exists()


def test_one_of_model_and_scratch_must_be_said(tmp_path: Path) -> None:
    for model, scratch in ((None, False), ("someone/some", True)):
        with pytest.raises(ConfigError, match="--model.*--scratch"):
            init(tmp_path / "p", model, scratch)


def test_text_for_a_tokenizer_must_exist(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no\.txt"):
        init(tmp_path / "p", None, True, [tmp_path / "no.txt"])
    (tmp_path / "yes.txt").write_text("words")
    init(tmp_path / "p", None, True, [tmp_path / "yes.txt"])
    assert load_config(tmp_path / "p" / "prefloop.toml").model.text == (str(tmp_path / "yes.txt"),)
