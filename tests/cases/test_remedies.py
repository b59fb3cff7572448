"""What a finding prints is read as the command line reads it, and nothing else is applied."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefloop.cases.case import cases, find
from prefloop.cases.remedy import Typed, typed
from prefloop.cases.running import run_case
from prefloop.errors import ConfigError


def test_a_printed_command_keeps_its_settings_and_their_quotes() -> None:
    command = "prefloop align --set align.lr=1e-4 --set 'align.objective.subject_to={policy=0.5}'"
    assert typed(command) == Typed("align", ("align.lr=1e-4", "align.objective.subject_to={policy=0.5}"))


def test_weighing_people_is_the_setting_that_the_option_stands_for() -> None:
    assert typed("prefloop reward --annotators weighted") == Typed("reward", ("reward.annotators=weighted",))


def test_the_round_of_a_printed_command_is_kept() -> None:
    assert typed("prefloop sample --round 0") == Typed("sample", (), 0)
    assert typed("prefloop sample") == Typed("sample", ())


@pytest.mark.parametrize("command", ["prefloop doctor", "prefloop agreement", "rm -rf /", "prefloop", ""])
def test_a_command_that_runs_no_stage_of_the_loop_changes_nothing(command: str) -> None:
    assert typed(command) is None


def test_an_option_that_a_case_does_not_know_is_refused_and_named() -> None:
    with pytest.raises(ConfigError, match="--profile"):
        typed("prefloop align --profile")


def test_an_unknown_case_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="instability"):
        run_case("instabilty", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("held", ["notes.txt", ".case.json"])
def test_a_folder_with_something_else_is_left_as_it_is(tmp_path: Path, held: str) -> None:
    (tmp_path / held).write_text('{"case": "instability", "seed": 1}')
    with pytest.raises(ConfigError, match="something else"):
        run_case("instability", tmp_path, seed=0)
    assert [p.name for p in tmp_path.iterdir()] == [held]


def test_each_case_is_found_by_the_name_of_its_file() -> None:
    from prefloop.cases import book

    files = {path.stem.replace("_", "-") for path in Path(book.__path__[0]).glob("[a-z]*.py")}
    assert set(cases()) == files and all(find(name).name == name for name in files)
