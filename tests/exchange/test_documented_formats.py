"""In docs/formats.md every format has a section, and every line shown there is what the page says it is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefloop.exchange import FORMATS, RowError, read, sniff, write_kto, write_pairs
from prefloop.exchange.registry import _ALL
from prefloop.types import Completion, Item, Prompt, Ranking

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
READ, WRITTEN = PAGE.split("## Out")
SECTION = re.compile(r"^### (\S+)\n(.*?)(?=^###? |\Z)", re.MULTILINE | re.DOTALL)
LINES = re.compile(r"```json\n(.*?)```", re.DOTALL)


def test_every_format_is_described_in_the_order_of_recognition() -> None:
    assert [name for name, _ in SECTION.findall(READ)] == list(FORMATS) == [f.name for f in _ALL]


@pytest.mark.parametrize("name", FORMATS)
def test_the_line_shown_of_a_format_is_recognised_and_read(tmp_path: Path, name: str) -> None:
    (shown,) = LINES.findall(dict(SECTION.findall(READ))[name])
    path = tmp_path / "shown.jsonl"
    path.write_text(shown)
    assert sniff(path) == name
    (found,) = read(path)
    assert not isinstance(found, RowError), found
    if isinstance(found, Item) and found.rankings:
        best = found.rankings[0].tiers[0]
        assert [c.text.strip().removeprefix("Step 1: ") for c in found.completions if c.id in best] == ["yes"]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(list(FORMATS)), st.data())
def test_any_value_in_a_field_of_a_documented_line_costs_at_most_its_row(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    (shown,) = LINES.findall(dict(SECTION.findall(READ))[name])
    records = [json.loads(line) for line in shown.splitlines()]
    field = data.draw(st.sampled_from(sorted(records[0])))
    values = st.none() | st.booleans() | st.integers(-2, 3) | st.floats() | st.text(max_size=3) | st.just("[]")
    nested = st.recursive(values, lambda v: st.lists(v, max_size=2) | st.dictionaries(st.just("id"), v), max_leaves=3)
    records[0][field] = data.draw(nested)
    path = tmp_path_factory.getbasetemp() / "changed.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    for row in read(path, name, ignore=[field] if data.draw(st.booleans()) else ()):
        assert not isinstance(row, RowError) or row.reason.isprintable()


def test_the_rows_shown_of_exports_are_what_is_written(tmp_path: Path) -> None:
    made = (Completion("50a1:c0", "yes"), Completion("50a1:c1", "no"))
    item = Item("50a1", Prompt("hello?"), made, (Ranking("50a1", "ann", "quality", (("50a1:c0",), ("50a1:c1",))),))
    for name, write in (("pairs", write_pairs), ("kto", write_kto)):
        (shown,) = LINES.findall(dict(SECTION.findall(WRITTEN))[name])
        write([item], tmp_path / "x.jsonl")
        assert json.loads((tmp_path / "x.jsonl").read_text().splitlines()[0]) == json.loads(shown)
