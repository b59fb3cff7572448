"""The commands backup and export print what they did, and refuse what they should."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest


def test_a_backup_is_made_and_restored_from_the_command_line(
    prefloop: Callable, tiny_project: Path, tmp_path: Path
) -> None:
    made = prefloop("backup", tmp_path / "b", "-C", tiny_project, "--json")
    assert made.code == 0, made.err
    assert made.json["stage"] == "backup" and made.json["rows"]["demonstrations"] == 40
    back = prefloop("backup", "--restore", tmp_path / "b", "-C", tmp_path / "again", "--json")
    assert back.code == 0, back.err
    assert back.json["stage"] == "restore" and back.json["rows"] == made.json["rows"]
    shown = prefloop("export", "demonstrations", "-C", tmp_path / "again", "--to", tmp_path / "d.jsonl")
    assert shown.code == 0 and "40 rows" in shown.out
    again = prefloop("backup", tmp_path / "b", "-C", tiny_project)
    assert again.code == 3 and "nothing is overwritten" in again.err


@pytest.mark.parametrize("argv", [[], ["x", "--restore", "y"], ["--restore", "y", "--runs", "-C", "z"]])
def test_a_backup_says_where_to_or_what_from(prefloop: Callable, argv: list[str]) -> None:
    assert prefloop("backup", *argv).code == 2


def test_a_restore_never_replaces_the_folder_one_stands_in(
    prefloop: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = prefloop("backup", "--restore", "b")
    assert said.code == 2 and "-C DIR" in said.err


def test_an_export_reports_the_hash_of_what_it_wrote(prefloop: Callable, tiny_project: Path, tmp_path: Path) -> None:
    for name in ("d.jsonl", "d.csv", "d.parquet"):
        said = prefloop("export", "demonstrations", "-C", tiny_project, "--to", tmp_path / name, "--json")
        assert said.json["sha256"] == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        assert (said.json["format"], said.json["rows"], said.json["schema"]) == (name.partition(".")[2], 40, 1)
    shown = prefloop("export", "demonstrations", "-C", tiny_project, "--to", tmp_path / "e.jsonl")
    assert f"sha256 {hashlib.sha256((tmp_path / 'e.jsonl').read_bytes()).hexdigest()}" in shown.out
    assert json.loads((tmp_path / "e.jsonl").read_text().splitlines()[0])["completion"]
