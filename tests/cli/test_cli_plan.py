"""`prefloop plan` prints a table or JSON, writes nothing, and ends with 1 where a stage does not fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def test_plan_shows_tables_and_refuses_what_does_not_fit(prefloop: Callable, tiny_project: Path) -> None:
    before = sorted(str(path) for path in tiny_project.rglob("*"))
    said = prefloop("plan", "sft", "-C", tiny_project, "--no-measure", "-q")
    assert (
        said.code == 0 and "sft (sft)" in said.out and "process: python and torch" in said.out and "it fits" in said.out
    )
    found = prefloop("plan", "-C", tiny_project, "--no-measure", "--json", "--memory", "0.5")
    assert found.code == 1 and [s["name"] for s in found.json["stages"]] == ["sft", "reward", "align"]
    assert not any(stage["fits"] for stage in found.json["stages"])
    assert sorted(str(path) for path in tiny_project.rglob("*")) == before


def test_a_stage_that_there_is_not_is_a_usage_error(prefloop: Callable, tiny_project: Path) -> None:
    said = prefloop("plan", "sample", "-C", tiny_project)
    assert said.code == 2 and "sft" in said.err
