"""docs/demo.md prints numbers that the code still gives."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from prefloop.demo.quality import WEIGHTS, quality, statistics
from prefloop.types import Prompt

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "demo.md").read_text(encoding="utf-8")


def test_the_measured_table_is_what_the_command_prints() -> None:
    rows = re.findall(r"^\| ([\w: 0-9]+) \| (\d[\d.]*) \|$", PAGE, re.MULTILINE)
    assert {label: float(value) for label, value in rows} == pytest.approx(statistics(), abs=6e-4)


def test_the_examples_have_the_quality_printed_beside_them() -> None:
    prompt = Prompt(re.search(r"```\n(Customer: .*?Answer:)\n```", PAGE, re.DOTALL)[1])  # type: ignore[index]
    rows = re.findall(r"^\| (?:a demonstration|another|the ideal) \| (.+) \| ([\d.]+) \|$", PAGE, re.MULTILINE)
    assert len(rows) == 3
    for text, value in rows:
        assert quality(prompt, text).score == pytest.approx(float(value), abs=0.006), text


def test_the_weights_are_the_ones_in_the_table_and_sum_to_one() -> None:
    rows = re.findall(r"^\| (\w+) \| (0\.\d+) \| ", PAGE, re.MULTILINE)
    assert {part: float(weight) for part, weight in rows} == WEIGHTS
    assert sum(WEIGHTS.values()) == pytest.approx(1.0)
