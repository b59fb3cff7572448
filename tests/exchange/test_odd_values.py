"""Values that JSON cannot hold: in a field that nobody needs they cost nothing, in one that is read they are named."""

from __future__ import annotations

import datetime
import decimal
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prefloop.errors import DataError
from prefloop.exchange import RowError, read, write_rankings
from prefloop.types import Item, Json, Prompt

ROWS = {"prompt": ["Name a colour.", "Name a shape."], "chosen": ["Blue."] * 2, "rejected": ["Seven."] * 2}
NAN, FAR = float("nan"), 9_000_000_000_000_000

# (column, what metadata keeps of its first value); the last value of each is null
COLUMNS: dict[str, tuple[Any, object]] = {
    "NaN": (pa.array([NAN, None]), "NaN"),
    "infinity": (pa.array([float("-inf"), None]), "-Infinity"),
    "NaN inside": (pa.array([{"a": [1.0, NAN]}, None]), {"a": [1.0, "NaN"]}),
    "map": (pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int64())), {"a": 1}),
    "map of nothing": (pa.array([[("a", None)], None], pa.map_(pa.string(), pa.int64())), {}),
    "empty map": (pa.array([[], None], pa.map_(pa.string(), pa.int64())), []),
    "map of numbers": (pa.array([[(1, 2)], None], pa.map_(pa.int64(), pa.int64())), ["(1, 2)"]),
    "bytes": (pa.array([b"\xff\x00", None]), "<2 bytes>"),
    "image": (pa.array([{"bytes": b"\x89P", "path": "a"}, None]), {"bytes": "<2 bytes>", "path": "a"}),
    "images": (pa.array([[{"bytes": b"\x89P"}], None]), [{"bytes": "<2 bytes>"}]),
    "timedelta": (pa.array([datetime.timedelta(days=1), None]), "1 day, 0:00:00"),
    "nanoseconds": (pa.array([1, None], pa.duration("ns")), None),
    "date": (pa.array([datetime.date(2024, 5, 6), None]), "2024-05-06"),
    "far date": (pa.array([2**31 - 1, None], pa.date32()), None),
    "far time": (pa.array([FAR, None], pa.timestamp("s")), None),
    "far time inside": (
        pa.array([{"a": [FAR], "b": 1}, None], pa.struct({"a": pa.list_(pa.timestamp("s")), "b": pa.int8()})),
        {"a": ["<timestamp[ms]>"], "b": 1},
    ),
    "decimal": (pa.array([decimal.Decimal("1.50"), None]), 1.5),
    "long decimal": (pa.array([decimal.Decimal(10**37), None]), 1e37),
    "unsigned": (pa.array([2**64 - 1, None], pa.uint64()), 2**64 - 1),
    "nothing": (pa.nulls(2), None),
    "half": (pa.array([0.5, None], pa.float16()), 0.5),
    "dictionary": (pa.array(["x", None]).dictionary_encode(), "x"),
    "large": (pa.array([["x"], None], pa.large_list(pa.large_string())), ["x"]),
    "fixed": (pa.array([[1, 2], None], pa.list_(pa.int8(), 2)), [1, 2]),
    "NUL": (pa.array(["a\0b", None]), "a\ufffdb"),
    "not UTF-8": (pa.array([b"\xff", None]).view(pa.string()), None),
}  # fmt: skip


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_that_nobody_needs_costs_no_row(tmp_path: Path, name: str) -> None:
    column, kept = COLUMNS[name]
    pq.write_table(pa.table({**ROWS, "other": column}), tmp_path / "a.parquet")
    found = list(read(tmp_path / "a.parquet"))
    assert all(isinstance(row, Item) for row in found), found
    metadata = [row.metadata for row in found if isinstance(row, Item)]
    assert metadata[1] == {}
    assert kept is None or metadata[0] == {"other": kept}
    json.dumps(metadata, allow_nan=False)
    assert write_rankings(found, tmp_path / "b.jsonl").rows == 2  # type: ignore[arg-type]
    assert list(read(tmp_path / "b.jsonl")) == found


@pytest.mark.parametrize("name", ["NaN", "bytes", "timedelta", "nanoseconds", "far date", "NUL", "not UTF-8"])
def test_in_a_column_that_is_read_it_is_named(tmp_path: Path, name: str) -> None:
    column, _ = COLUMNS[name]
    pq.write_table(pa.table({**ROWS, "chosen": column}), tmp_path / "a.parquet")
    first, second = read(tmp_path / "a.parquet", "pairs")
    assert isinstance(first, RowError) and first.line == 1 and first.reason.startswith("chosen must be text, not ")
    assert isinstance(second, RowError) and second.reason == "no chosen"


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    columns = [pa.array(["a"]), pa.array(["b"]), pa.array(["c"])]
    pq.write_table(pa.Table.from_arrays(columns, names=["prompt", "completion", "completion"]), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="two columns that are called 'completion'"):
        list(read(tmp_path / "a.parquet"))


JSON_VALUES = ["NaN", "Infinity", "-Infinity", "1e999", "9" * 30, "-" + "9" * 5000, '"\\u0000"', '"\\ud800"', "[[NaN]]"]


@pytest.mark.parametrize("value", JSON_VALUES, ids=lambda value: value[:10])
def test_json_values_that_nobody_needs_cost_no_row(tmp_path: Path, value: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        f'{{"prompt": "p", "chosen": "a", "rejected": "b", "other": {value}, "metadata": {{"m": {value}}}}}'
    )
    (item,) = read(path)
    assert isinstance(item, Item), item
    json.dumps(item.metadata, allow_nan=False).encode()
    if "\\u" not in value and "[" not in value:
        assert item.metadata == {"other": value, "m": value}
    for named in ("chosen", "score_chosen", "prompt", "annotator"):
        good = {"prompt": '"p"', "chosen": '"a"', "rejected": '"b"', "score_rejected": "1", named: value}
        path.write_text("{" + ", ".join(f'"{name}": {written}' for name, written in good.items()) + "}")
        (error,) = read(path, "pairs")
        assert isinstance(error, RowError) and named in error.reason


def test_odd_values_are_kept_wherever_metadata_is(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    completions = '[{"id": "a", "text": "x", "n": NaN, "sampling": {"t": NaN}}, {"id": "b", "text": "y"}]'
    ranking = '{"annotator": "w", "criterion": "q", "tiers": [["a"], ["b"]], "n": Infinity}'
    path.write_text(f'{{"prompt": "p", "completions": {completions}, "rankings": [{ranking}]}}')
    (item,) = read(path)
    assert isinstance(item, Item)
    kept: list[Json | None] = [item.completions[0].metadata, item.completions[0].sampling, item.rankings[0].metadata]
    assert kept == [{"n": "NaN"}, {"t": "NaN"}, {"n": "Infinity"}]
    path.write_text('{"prompt": "p", "n": NaN}')
    (prompt,) = read(path)
    assert isinstance(prompt, Prompt) and prompt == Prompt("p") and prompt.metadata == {"n": "NaN"}


def test_grouped_rows_keep_odd_values_too(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"prompt": "p", "response": "{n}", "rating": {n}, "n": NaN}}\n' for n in range(2)))
    (item,) = read(path)
    assert isinstance(item, Item) and [c.metadata for c in item.completions] == [{"n": "NaN"}] * 2
    path.write_text("".join(f'{{"prompt": "p", "response": "{n}", "rating": NaN}}\n' for n in range(2)))
    assert [row.reason for row in read(path) if isinstance(row, RowError)] == ["rating must be a number, not NaN"] * 2


def test_a_bad_rating_costs_its_own_row_and_not_the_list(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"prompt": "p", "response": "{n}", "rating": {n}}}\n' for n in (1, 2, "NaN", 3)))
    error, item = read(path)
    assert isinstance(error, RowError) and error.line == 3
    assert isinstance(item, Item) and [c.text for c in item.completions] == ["1", "2", "3"]
