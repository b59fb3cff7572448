"""Every case of the casebook is run, and its page in docs/cases says what came out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path

import pytest

from prefloop.cases.case import cases
from prefloop.cases.running import run_case
from prefloop.config import load_config
from prefloop.results import CaseFigures

DOCS = Path(__file__).resolve().parents[2] / "docs" / "cases"
BROUGHT_BACK = 0.8  # so much of what was lost comes back; a case that brings back less says so in its page
LESS: dict[str, float] = {"conflicting-signals": 0.55}
Run = Callable[[str], CaseFigures]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run a case once, with seed 0, on a world that all of them share."""
    folder = tmp_path_factory.mktemp("cases")
    done: dict[str, CaseFigures] = {}

    def get(name: str) -> CaseFigures:
        if name not in done:
            done[name] = run_case(name, folder / name, quiet=True, base=folder / "base")
        return done[name]

    return get


@pytest.mark.parametrize("name", cases())
def test_the_first_finding_names_the_cause_that_was_planted(name: str, run: Run) -> None:
    assert run(name).finding.cause == cases()[name].cause


@pytest.mark.parametrize("name", cases())
def test_the_fault_costs_more_than_chance(name: str, run: Run) -> None:
    of = run(name)
    assert of.fault.high < of.healthy.mean and of.fault.mean < of.healthy.low


@pytest.mark.parametrize("name", cases())
def test_the_printed_command_brings_back_what_was_lost(name: str, run: Run) -> None:
    of = run(name)
    assert of.applied[0] == of.finding.command
    assert of.restored is not None and of.restored.mean >= LESS.get(name, BROUGHT_BACK)


@pytest.mark.parametrize("name", [name for name, case in cases().items() if case.person is None])
def test_the_fault_still_stands_in_the_project_when_it_is_mended(name: str, run: Run) -> None:
    of = run(name)
    settings = Path(of.page).with_name("prefloop.toml")
    planted = load_config(settings, [])
    assert planted == load_config(settings, of.settings)


@pytest.mark.parametrize("name", cases())
def test_the_page_shows_the_finding_the_commands_and_all_three_policies(name: str, run: Run) -> None:
    of = run(name)
    page = Path(of.page).read_text(encoding="utf-8")
    assert of.finding.title in unescape(page)
    assert all(f"<dt>{label}</dt>" in page for label in ("before the fault", "with the fault", "after the remedy"))
    assert page.count('<div class="pair">') == 4 and all(command in unescape(page) for command in of.applied)


@pytest.mark.parametrize("name", cases())
def test_the_casebook_has_the_figures_of_its_run(name: str, run: Run) -> None:
    of, text = run(name), (DOCS / f"{name}.md").read_text(encoding="utf-8")
    printed = {row: float(value) for row, value in re.findall(r"^\| ([\w ]+) \| (\d\.\d+) \[", text, re.MULTILINE)}
    figures = {"before the fault": of.healthy, "with the fault": of.fault, "after the remedy": of.after}
    assert printed == {row: pytest.approx(figure.mean, abs=0.05) for row, figure in figures.items()}
    assert of.finding.title in text and f"prefloop case {name}" in text


def test_a_case_that_is_done_is_not_run_again(run: Run) -> None:
    first = run("instability")
    folder = Path(first.page).parent
    again = run_case("instability", folder, quiet=True)
    assert again.skipped and again.figures() == json.loads((folder / "case.json").read_text())
