"""`prefloop case` without a name lists the cases, and takes no settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prefloop.cases.case import cases
from prefloop.cli.main import run

DOCS = Path(__file__).resolve().parents[2] / "docs" / "cases"


def test_without_a_name_the_cases_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["case"]) == 0
    assert capsys.readouterr().out.count("\n") == len(cases())
    assert run(["case", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"cases": {case.name: case.title for case in cases().values()}}


def test_a_setting_is_refused_since_it_would_make_another_case(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["case", "instability", "--set", "align.steps=2"]) == 2
    assert "--set" in capsys.readouterr().err


def test_every_case_has_a_page_that_the_index_names() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    assert all((DOCS / f"{name}.md").is_file() and f"({name}.md)" in index for name in cases())
