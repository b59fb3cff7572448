"""A message list inside a text is a message list, for prompts and answers of every format; and transcripts end well."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prefloop.exchange import RowError, read, sniff
from prefloop.exchange.stringified import MAX_PARTS, messages_in
from prefloop.types import Demonstration, Item, Message, Prompt

USER, BLUE, SEVEN = (
    {"role": role, "content": text}
    for role, text in (("user", 'It\'s a "colour"?\n}\n {'), ("assistant", "Blue."), ("assistant", "Seven."))
)
ASKED = Prompt((Message("user", USER["content"]),))


def numpys(messages: list[dict[str, str]]) -> str:
    """Return the text that numpy prints for an array of objects."""
    return "[" + "\n ".join(map(repr, messages)) + "]"


def sharegpt(messages: list[dict[str, str]]) -> str:
    names = {"user": "human", "assistant": "gpt"}
    return json.dumps([{"from": names[m["role"]], "value": m["content"]} for m in messages], indent=1)


WRITTEN: dict[str, Callable[[list[dict[str, str]]], str]] = {
    "json": json.dumps,
    "python": repr,
    "numpy": numpys,
    "numpy array": lambda messages: "array(" + repr(messages).replace("}, ", "},\n       ") + ", dtype=object)",
    "tuple": lambda messages: repr(tuple(messages)),
    "json in json": lambda messages: json.dumps(json.dumps(messages)),
    "bytes": lambda messages: repr(json.dumps(messages).encode()),
    "json with line breaks in its texts": lambda messages: json.dumps(messages).replace("\\n", "\n"),
    "sharegpt": sharegpt,
    "with spaces": lambda messages: f"\n {messages!r}\n",
}


def lines(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def layouts(w: Callable[[list[dict[str, str]]], str]) -> list[tuple[str, dict[str, Any]]]:
    asked, blue, seven = w([USER]), w([BLUE]), w([SEVEN])
    return [
        ("pairs", {"prompt": asked, "chosen": blue, "rejected": seven}),
        ("pairs", {"chosen": w([USER, BLUE]), "rejected": w([USER, SEVEN])}),
        ("kto", {"prompt": asked, "completion": blue, "label": True}),
        ("kto", {"messages": w([USER, BLUE]), "label": 1}),
        ("demonstrations", {"prompt": asked, "completion": blue}),
        ("demonstrations", {"messages": w([USER, BLUE])}),
        ("demonstrations", {"conversations": w([USER, BLUE])}),
        ("nectar", {"prompt": asked, "answers": [{"answer": blue, "rank": 1}, {"answer": seven, "rank": 2}]}),
        ("ranked-replies", {"prompt": asked, "responses": [blue, seven], "ranks": [0, 1]}),
        ("helpsteer3", {"context": asked, "response1": blue, "response2": seven, "overall_preference": -1}),
        ("alpaca-farm", {"instruction": "i", "output_1": blue, "output_2": seven, "preference": 1}),
        ("rankings", {"prompt": asked, "completions": [{"id": "a", "text": blue}, {"id": "b", "text": seven}]}),
    ]


@pytest.mark.parametrize("written", WRITTEN)
def test_messages_in_a_text_are_messages_in_every_format(tmp_path: Path, written: str) -> None:
    for format, record in layouts(WRITTEN[written]):
        path = lines(tmp_path / "a.jsonl", record)
        assert sniff(path) == format
        (found,) = read(path)
        assert isinstance(found, Item | Demonstration), (format, found)
        assert "instruction" in record or found.prompt == ASKED, format
        assert (found.text if isinstance(found, Demonstration) else found.completions[0].text) == "Blue.", format


def test_parquet_columns_of_spelt_out_messages_are_messages(tmp_path: Path) -> None:
    (_, record), *_ = layouts(repr)
    pq.write_table(pa.Table.from_pylist([record]), tmp_path / "a.parquet")
    (item,) = read(tmp_path / "a.parquet")
    assert isinstance(item, Item) and [c.text for c in item.completions] == ["Blue.", "Seven."]


@pytest.mark.parametrize(
    "text",
    [
        '[{"role": "user"}]', "[{'a': 1}]", "[{", '[{"role": "user", "content": "x"}] and more', "[]", "{}", "[{}]",
        "[{'role': open('x'), 'content': 'y'}]", '[["role", "content"]]',
        "[{'role': 'user', 'content': __import__('os')}]", "[" * 500 + "{'role'" + "]" * 500,
        "[{'role'" + "-" * 9000 + "]",
    ],
)  # fmt: skip
def test_a_text_that_only_begins_like_messages_stays_the_text(tmp_path: Path, text: str) -> None:
    assert messages_in(text) == text
    (found,) = read(lines(tmp_path / "a.jsonl", {"prompt": text, "completion": text}))
    assert isinstance(found, Demonstration) and found.prompt.content == found.text == text


@pytest.mark.parametrize("text", [repr([USER, BLUE])[:-9], json.dumps([USER, BLUE])[:40], f"array([{BLUE!r:.30}"])
def test_messages_that_a_spreadsheet_cut_off_cost_their_row(tmp_path: Path, text: str) -> None:
    pair = {"prompt": "p", "chosen": "yes", "rejected": "no"}
    found, _ = read(lines(tmp_path / "a.jsonl", {**pair, "chosen": text}, pair))
    assert isinstance(found, RowError) and "cut off" in found.reason


def test_messages_with_a_missing_text_cost_their_row(tmp_path: Path) -> None:
    text = "[{'role': 'user', 'content': nan}]"
    pair = {"prompt": "p", "chosen": "yes", "rejected": "no"}
    found, _ = read(lines(tmp_path / "a.jsonl", {**pair, "chosen": text}, pair))
    assert isinstance(found, RowError) and "NaN" in found.reason


def test_messages_inside_messages_are_what_was_said(tmp_path: Path) -> None:
    said = json.dumps([USER])
    (found,) = read(lines(tmp_path / "a.jsonl", {"messages": [{"role": "user", "content": said}, BLUE]}))
    assert isinstance(found, Demonstration) and found.prompt.content == (Message("user", said),)


def test_a_python_list_that_would_need_much_memory_costs_its_row(tmp_path: Path) -> None:
    huge = "[{'role': 'user', 'content': 'x', 'n': [" + "1," * MAX_PARTS + "]}]"
    error, item = read(
        lines(tmp_path / "a.jsonl", {"prompt": huge, "completion": "x"}, {"prompt": "p", "completion": "x"})
    )
    assert isinstance(error, RowError) and "Python text" in error.reason
    assert isinstance(item, Demonstration)


START = "\n\nHuman: hello\n\nAssistant:"


@pytest.mark.parametrize("bye", ["\n\nHuman: bye", "\n\nHuman:", "\n\nHuman: a\n\nAssistant: b\n\nHuman: c"])
@pytest.mark.parametrize("side", ["chosen", "rejected"])
@pytest.mark.parametrize("beside", [True, False])
def test_an_answer_that_ends_with_the_person_costs_its_row(tmp_path: Path, bye: str, side: str, beside: bool) -> None:
    start = "" if beside else START
    row = {"chosen": f"{start} hi", "rejected": f"{start} yo", **({"prompt": START} if beside else {})}
    error, item = read(lines(tmp_path / "a.jsonl", {**row, side: row[side] + bye}, row))
    assert isinstance(error, RowError) and "ends with the person's turn" in error.reason
    assert isinstance(item, Item) and [c.text.strip() for c in item.completions] == ["hi", "yo"]


def test_transcripts_of_single_lines_are_split_and_end_well(tmp_path: Path) -> None:
    start = "Human: hello\nAssistant:"
    rows = [
        {"chosen": f"{start} hi{bye}", "rejected": f"{start} hello{bye}"}
        for bye in ("", "\nHuman: bye", "\n\nHuman: bye")
    ]
    path = lines(tmp_path / "a.jsonl", *rows)
    assert sniff(path) == "hh-rlhf"
    item, *errors = read(path)
    assert isinstance(item, Item) and item.prompt.content == start
    assert [c.text for c in item.completions] == ["hi", "hello"]
    assert (
        all(isinstance(e, RowError) and "ends with the person's turn" in e.reason for e in errors) and len(errors) == 2
    )


def test_labelled_and_shown_answers_to_transcripts_end_well_too(tmp_path: Path) -> None:
    for more in ({"label": True}, {}):
        (error,) = read(lines(tmp_path / "a.jsonl", {"prompt": START, "completion": " hi\n\nHuman: bye", **more}))
        assert isinstance(error, RowError) and "ends with the person's turn" in error.reason


def test_who_speaks_of_human_in_an_answer_is_understood(tmp_path: Path) -> None:
    for prompt, said in (("Write a play.", "A\n\nHuman: bye"), (START, " Human: yes"), (START, " a\nHuman: b")):
        (found,) = read(lines(tmp_path / "a.jsonl", {"prompt": prompt, "completion": said}))
        assert isinstance(found, Demonstration) and found.text == said


def test_transcripts_beside_their_question_are_transcripts(tmp_path: Path) -> None:
    row = {"prompt": "hello", "chosen": f"{START} hi", "rejected": f"{START} yo"}
    path = lines(tmp_path / "a.jsonl", row)
    assert sniff(path) == "hh-rlhf"
    (item,) = read(path)
    assert isinstance(item, Item) and item.prompt.content == START
    assert [c.text for c in item.completions] == ["hi", "yo"]
