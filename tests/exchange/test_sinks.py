"""No spreadsheet runs the CSV, Parquet says what JSON says, and what is reported of a file is true."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefloop.exchange import (
    RowError,
    read,
    write_demonstrations,
    write_kto,
    write_pairs,
    write_prompts,
    write_rankings,
)
from prefloop.exchange.files.spreadsheet import cell, harmless
from prefloop.exchange.soft import votes
from prefloop.types import Completion, Demonstration, Item, Message, Prompt, Ranking


def item(
    n: int = 0, *, prompt: Prompt | None = None, people: int = 1, texts: tuple[str, ...] = ("A", "B", "C")
) -> Item:
    key = f"i{n}"
    made = tuple(Completion(f"{key}:c{j}", text) for j, text in enumerate(texts))
    said = tuple(
        Ranking(key, f"w{p}", "quality", ((f"{key}:c1",), (f"{key}:c0", f"{key}:c2")), ordinal=p) for p in range(people)
    )
    return Item(key, prompt or Prompt(f"p{n}"), made, said)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


# -- formulas ----------------------------------------------------------------------------------------------------------

# fmt: skip
FORMULAS = [
    "=1+1",
    '=HYPERLINK("http://x")',
    "+1+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "＝1+1",
    "＋1",
    "－1",
    "＠x",
    "−1+2",
    "﹢1",
    " =1",
    "\u200b=1",
    "\ufeff=1",
    "\u202e=1",
    "\xa0=1",
    "- a list",
    "+",
    "-",
    "=",
    "\tx",
    "\x00=1",
]


@pytest.mark.parametrize("text", FORMULAS)
def test_no_text_is_a_formula(text: str) -> None:
    assert harmless(text) == "'" + text.replace("\0", "\ufffd") or harmless(text)[0] not in "=+-@\t\r"
    assert harmless(text).lstrip()[0] not in "=+-@＝＋－＠"


@pytest.mark.parametrize(
    "text", ["", "a=1", "5", "-5", "+5", "-0.5", "1e-9", "-1E+5", ".5", "-.5", "'=1", "2024-01-01", "é"]
)
def test_ordinary_text_and_numbers_are_left_alone(text: str) -> None:
    assert harmless(text) == text


@given(st.text())
def test_a_cell_never_begins_as_a_formula_does(text: str) -> None:
    shown = harmless(text)
    assert shown[:1] not in tuple("=@\t\r\n＝＋－＠") or not shown
    if shown[:1] in ("+", "-"):
        float(shown)
    assert shown.removeprefix("'") == text.replace("\0", "\ufffd") or shown == text


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers())
def test_numbers_stay_numbers(value: float) -> None:
    assert cell(value) == value


def test_every_text_of_every_export_is_harmless(tmp_path: Path) -> None:
    bad = '=cmd|"/C calc"!A0'
    made = tuple(Completion(f"i:c{j}", bad, model=bad) for j in range(2))
    said = Ranking("i", bad, bad, (("i:c0",), ("i:c1",)), comment=bad, flags=(bad,), created_at=bad, duration_s=-1.5)
    hostile = Item("i", Prompt(bad, bad, {"=k": bad}), made, (said,), external_id=bad, source=bad, round=-3)
    shown = Demonstration(hostile.prompt, bad, {"=k": bad})
    # fmt: skip
    writers: list[tuple[Any, Any]] = [
        (write_rankings, [hostile]),
        (write_pairs, [hostile]),
        (write_kto, [hostile]),
        (write_prompts, [hostile.prompt]),
        (write_demonstrations, [shown]),
    ]
    for write, values in writers:
        path = tmp_path / "x.csv"
        assert write(values, path).format == "csv"
        cells = [value for row in rows_of(path) for value in row.values()]
        assert any(value.startswith("'=cmd") for value in cells)
        for value in cells:
            assert value[:1] not in ("=", "+", "@") and (value[:1] != "-" or float(value) < 0), value
    write_rankings([hostile], path)
    assert {(row["duration_s"], row["round"]) for row in rows_of(path)} == {("-1.5", "-3")}


def test_a_spreadsheet_of_rankings_says_who_put_what_where(tmp_path: Path) -> None:
    path = tmp_path / "r.csv.gz"
    written = write_rankings([item(people=2), Item("j", Prompt((Message("user", "hi"),)), item().completions)], path)
    text = gzip.decompress(path.read_bytes()).decode("utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert written.rows == len(rows) == 9
    # fmt: skip
    assert [(r["annotator"], r["completion"], r["rank"]) for r in rows[:4]] == [
        ("w0", "c0", "2"),
        ("w0", "c1", "1"),
        ("w0", "c2", "2"),
        ("w1", "c0", "2"),
    ]
    assert (rows[-1]["item_id"], rows[-1]["annotator"], rows[-1]["prompt"]) == ("j", "", "user: hi")


@given(st.lists(st.text(min_size=1), min_size=2, max_size=3))
@settings(deadline=None, max_examples=50)
def test_cells_with_quotes_commas_and_line_breaks_stay_one_cell(tmp_path_factory, texts: list[str]) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path_factory.getbasetemp() / "t.csv"
    write_rankings([Item("i", Prompt("p"), tuple(Completion(f"i:c{j}", t) for j, t in enumerate(texts)))], path)
    assert [row["text"] for row in rows_of(path)] == [harmless(text) for text in texts]


# -- Parquet -----------------------------------------------------------------------------------------------------------


def test_parquet_columns_have_one_type_whatever_the_prompts_are(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    write_pairs([item(0), item(1)], path)
    assert pq.read_table(path).to_pylist()[0]["prompt"] == "p0"
    chat = item(1, prompt=Prompt((Message("user", "hi"),), "be kind"))
    assert write_pairs([item(0), chat], path).rows == 4
    rows = pq.read_table(path).to_pylist()
    assert rows[0]["prompt"] == [{"role": "user", "content": "p0"}]
    assert rows[0]["chosen"] == [{"role": "assistant", "content": "B"}]
    assert [turn["role"] for turn in rows[2]["prompt"]] == ["system", "user"]
    assert (rows[0]["margin"], rows[0]["judges"], rows[0]["simulated"]) == (1.0, 1, False)
    found = list(read(path))
    assert len(found) == 4 and all(isinstance(row, Item) for row in found)


def test_parquet_keeps_the_difference_between_text_and_a_chat_of_one_message(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    both = [item(0, prompt=Prompt("hi")), item(1, prompt=Prompt((Message("user", "hi"),)))]
    write_rankings(both, path)
    assert [i.prompt.content for i in read(path) if isinstance(i, Item)] == ["hi", (Message("user", "hi"),)]


def test_parquet_says_which_layout_it_has_and_holds_nulls_in_free_objects(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    free = {"a": None, "b": [None, {"c": None}], "n": 2**63}
    made = item()
    write_rankings([Item("i", made.prompt, item().completions[:0], metadata=free)], path)
    assert pq.ParquetFile(path).schema_arrow.metadata[b"prefloop.schema"] == b"1"
    assert json.loads(pq.read_table(path).to_pylist()[0]["metadata"]) == free
    write_prompts([Prompt("p", metadata=free)], path)
    (found,) = read(path)
    assert isinstance(found, Prompt) and found.metadata == {"a": None, "b": [None, {"c": None}], "n": 2**63}


def test_damaged_json_in_a_parquet_of_ours_costs_its_row(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    write_prompts([Prompt("p", metadata={"a": 1}), Prompt("q", metadata={"a": 1})], path)
    table = pq.read_table(path)
    broken = table.set_column(2, table.schema.field(2), [['{"a": ', '{"a": 2}']])
    pq.write_table(broken, path)
    first, second = read(path)
    assert isinstance(first, RowError) and "not JSON" in first.reason
    assert isinstance(second, Prompt) and second.metadata == {"a": 2}


# -- what is reported --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["r.jsonl", "r.jsonl.gz", "r.jsonl.xz", "r.csv", "r.csv.gz", "r.parquet", "r.txt"])
def test_what_is_reported_is_what_lies_there_and_equal_rows_give_equal_bytes(tmp_path: Path, name: str) -> None:
    first = write_rankings([item(n) for n in range(3)], tmp_path / name)
    content = (tmp_path / name).read_bytes()
    assert (first.bytes, first.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert (first.schema, first.mended) == (1, 0)
    again = write_rankings([item(n) for n in range(3)], tmp_path / f"other-{name}")
    assert again == first
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([name, f"other-{name}"]), "scraps"


@pytest.mark.parametrize("name", ["r.jsonl", "r.csv", "r.parquet"])
def test_half_a_surrogate_pair_is_replaced_and_counted_and_a_whole_one_is_its_character(
    tmp_path: Path, name: str
) -> None:
    rows = [item(0), item(1, texts=("\ud83d\ude00 fine", "half \ud800", "\udfff")), item(2)]
    assert write_rankings(rows, tmp_path / name).mended == (3 if name == "r.csv" else 1)  # These are rows.
    if name == "r.csv":
        texts = [row["text"] for row in rows_of(tmp_path / name)][3:6]
    else:
        found = list(read(tmp_path / name))
        assert isinstance(found[1], Item)
        texts = [c.text for c in found[1].completions]
    assert texts == ["\U0001f600 fine", "half \ufffd", "\ufffd"]


def test_a_record_of_a_newer_layout_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    write_rankings([item()], path)
    record = json.loads(path.read_text())
    assert record["prefloop"]["schema"] == 1
    record["prefloop"]["schema"] = 2
    path.write_text(json.dumps(record))
    (found,) = read(path)
    assert isinstance(found, RowError) and "newer prefloop" in found.reason


# -- soft labels -------------------------------------------------------------------------------------------------------


def test_votes_count_ties_half_and_leave_out_who_did_not_place_both() -> None:
    def said(*tiers: tuple[str, ...]) -> Ranking:
        return Ranking("i", "w", "q", tiers)

    rankings = [said(("a",), ("b",)), said(("b", "a")), said(("b",), ("c",), ("a",)), said(("a",), ("c",))]
    counted = votes(rankings, "a", "b")
    assert (counted.won, counted.judges) == (1.5, 3)
    assert counted.probability == pytest.approx(0.5)
    assert votes(rankings[:1], "a", "b").probability == 0.75
    assert votes(rankings, "b", "a").probability == 1 - counted.probability


def test_pairs_carry_the_probability_that_everybody_gives_them(tmp_path: Path) -> None:
    key = "i0"
    outvoted = Ranking(key, "x", "quality", ((f"{key}:c0",), (f"{key}:c1",)), ordinal=9)
    other = Ranking(key, "x", "fun", ((f"{key}:c0",), (f"{key}:c1",)), ordinal=10)
    made = item(people=2)
    path = tmp_path / "p.jsonl"
    write_pairs([Item(key, made.prompt, made.completions, (*made.rankings, outvoted, other))], path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    by = {(r["annotator"], r["criterion"], r["chosen"], r["rejected"]): (r["probability"], r["judges"]) for r in rows}
    assert by["w0", "quality", "B", "A"] == by["w1", "quality", "B", "A"] == (2.5 / 4, 3)
    assert by["x", "quality", "A", "B"] == (1.5 / 4, 3)
    assert by["w0", "quality", "B", "C"] == (2.5 / 3, 2)
    assert by["x", "fun", "A", "B"] == (0.75, 1)


def test_a_models_probabilities_are_used_in_either_order_and_else_the_votes(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    asked: list[tuple[str, str]] = []

    def soft(item: Item, criterion: str) -> dict[tuple[str, str], float]:
        asked.append((item.id, criterion))
        return {("i0:c0", "i0:c1"): 0.2}

    write_pairs([item()], path, soft=soft)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert {(r["chosen"], r["rejected"]): r["probability"] for r in rows} == {("B", "A"): 0.8, ("B", "C"): 0.75}
    assert asked == [("i0", "quality")]


# -- memory ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["r.jsonl", "r.csv", "r.parquet"])
def test_memory_does_not_grow_with_the_number_of_rows(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefloop.exchange.files.parquet.GROUP_ROWS", 50)
    text = "word " * 1000

    def many(count: int) -> Iterator[Item]:
        return (item(n, texts=(text, f"{text}{n}", "C")) for n in range(count))

    peaks = []
    write_rankings(many(10), tmp_path / name)  # The first call imports.
    for count in (100, 400):
        tracemalloc.start()
        write_rankings(many(count), tmp_path / name)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 1e6, peaks  # 300 more items are 3 MB of text.
