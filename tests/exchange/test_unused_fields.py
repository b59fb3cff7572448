"""A field that nobody reads and that looks like a label, a score or another answer stops the import, by its name."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prefloop.errors import DataError
from prefloop.exchange import RowError, check, read
from prefloop.types import Demonstration, Item, Prompt

ASKED = {"prompt": "Name a colour."}
SHOWN = {**ASKED, "completion": "Blue."}
CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]


def lines(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


STOPPED: list[tuple[dict[str, Any], list[str]]] = [
    ({**SHOWN, "Label": 0}, ["Label"]),
    ({**SHOWN, "is_good": False}, ["is_good"]),
    ({**SHOWN, "is_correct": "no"}, ["is_correct"]),
    ({**SHOWN, "helpfulness": 0.5}, ["helpfulness"]),
    ({**SHOWN, "quality_rating": 1}, ["quality_rating"]),
    ({**SHOWN, "thumbs": "down"}, ["thumbs"]),
    ({**SHOWN, "upvotes": 0}, ["upvotes"]),
    ({**SHOWN, "upvoted": False}, ["upvoted"]),
    ({**SHOWN, "outcome": "bad"}, ["outcome"]),
    ({**SHOWN, "result": False}, ["result"]),
    ({**SHOWN, "correctness_math_verify": False}, ["correctness_math_verify"]),
    ({**SHOWN, "win_rate": 0.1}, ["win_rate"]),
    ({"messages": [CHAT[0], {**CHAT[1], "train": False}]}, ["messages.train"]),
    ({**ASKED, "response_x": "Blue."}, ["response_x"]),
    ({"query": "Name a colour.", "answers": ["Blue.", "Red."]}, ["answers"]),
    ({**SHOWN, "metadata": {"label": 0}}, ["metadata.label"]),
    ({**SHOWN, "annotation": [{"score": 1}]}, ["annotation.score"]),
    ({**SHOWN, "completion_2": "Seven."}, ["completion_2"]),
    ({**SHOWN, "response": "Seven."}, ["response"]),
    ({"messages": [CHAT[0], {**CHAT[1], "label": False}]}, ["messages.label"]),
    ({"messages": [CHAT[0], {**CHAT[1], "weight": 0}]}, ["messages.weight"]),
    ({**ASKED, "y_w": "Blue.", "y_l": "Seven."}, ["y_w", "y_l"]),
    ({**ASKED, "good_answer": "Blue.", "bad_answer": "Seven."}, ["good_answer", "bad_answer"]),
    ({"question": "Name a colour.", "chatgpt": "Blue.", "llama2-13b-chat": "Seven."}, ["chatgpt", "llama2-13b-chat"]),
    ({**ASKED, "response_1": "Blue.", "response_2": "Seven."}, ["response_1", "response_2"]),
    ({**ASKED, "reply_x1": "Blue.", "reply_x2": "Seven."}, ["reply_x1", "reply_x2"]),
    ({**ASKED, "teacherA": "Blue.", "teacherB": "Seven."}, ["teacherA", "teacherB"]),
    ({**ASKED, "responses": ["Blue.", "Seven."], "scores": [1]}, ["responses", "scores"]),
    ({**ASKED, "generated_response": "Blue."}, ["generated_response"]),
    ({"query": "Name a colour.", "positive": "Blue.", "negative": "Seven."}, ["positive", "negative"]),
    ({**ASKED, "betterResponseId": 1}, ["betterResponseId"]),
    ({**ASKED, "chosen": "Blue.", "rejected": "Seven.", "winner": "rejected"}, ["winner"]),
    ({**ASKED, "chosen": "Blue.", "rejected": "Seven.", "rejected_2": "Eight."}, ["rejected_2"]),
    ({**ASKED, "chosen": "Blue.", "rejected": "Seven.", "label": 0}, ["label"]),
    ({**ASKED, "completions": [{"id": "a", "text": "x", "score": 1}, {"id": "b", "text": "y"}]}, ["completions.score"]),
    ({**ASKED, "completions": [{"id": "a", "text": "x"}, {"id": "b", "text": "y"}], "best": "a"}, ["best"]),
]


@pytest.mark.parametrize(("record", "names"), STOPPED, ids=lambda value: ",".join(value) if type(value) is list else "")
def test_what_nobody_would_read_stops_the_file_and_ignoring_it_goes_on(
    tmp_path: Path, record: dict[str, Any], names: list[str]
) -> None:
    path = lines(tmp_path / "a.jsonl", record)
    with pytest.raises(DataError) as error:
        list(read(path))
    assert all(f"--ignore {name}" in str(error.value) for name in names)
    with pytest.raises(DataError):
        check(path)
    (found,) = read(path, ignore=names)
    assert not isinstance(found, RowError)


KEPT: list[dict[str, Any]] = [
    {**ASKED, "ground_truth": "42", "solution": "...", "answer": "42", "data_source": "gsm8k"},
    {"prompt": CHAT[:1], "reward_model": {"style": "rule", "ground_truth": "4"}, "extra_info": {"answer": "4"}},
    {**SHOWN, "source": "x", "lang": "en", "model": "m", "response_id": "7", "output_tokens": 12, "num_responses": 2},
    {**SHOWN, "label": None, "score": None, "rejected": "", "metadata": {"good_natured": True, "topic": "colour"}},
    {**SHOWN, "model_a": "x", "model_b": "y", "category": "good", "classification": "positive feelings"},
    {**ASKED, "chosen": "Blue.", "rejected": "Seven.", "chosen-rating": 5, "rejected_model": "m", "margin": 2},
    {**ASKED, "response": "Blue.", "chosen": "Blue.", "rejected": "Seven."},
    {"prompt": "hi", "prompt_id": "1", "messages": CHAT},
    {"id": "1", "messages": CHAT, "source": "tulu"},
    {
        **ASKED,
        "completions": [{"id": "a", "text": "x", "score": 1}, {"id": "b", "text": "y"}],
        "rankings": [{"annotator": "w", "criterion": "q", "tiers": [["a"], ["b"]]}],
        "winner": "a",
        "metadata": {"label": 3},
    },
]  # fmt: skip


@pytest.mark.parametrize("record", KEPT, ids=lambda record: ",".join(record))
def test_what_only_describes_a_row_goes_on(tmp_path: Path, record: dict[str, Any]) -> None:
    (found,) = read(lines(tmp_path / "a.jsonl", record))
    assert not isinstance(found, RowError)


@pytest.mark.parametrize("wrapping", ["gz", "array", "parquet"])
def test_a_label_in_a_late_row_is_found_before_anything_else(tmp_path: Path, wrapping: str) -> None:
    rows = [{**SHOWN, "label": None} for _ in range(1200)] + [{**SHOWN, "label": 0}]
    path = tmp_path / "late"
    if wrapping == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif wrapping == "gz":
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    else:
        path.write_text(json.dumps(rows, indent=0))
    with pytest.raises(DataError, match="demonstrations does not read 'label'"):
        check(path)
    assert all(isinstance(row, Demonstration) for row in read(path, ignore=["label"]))


def test_an_ignored_field_is_metadata_and_means_nothing(tmp_path: Path) -> None:
    (found,) = read(lines(tmp_path / "a.jsonl", {**SHOWN, "label": 0, "score": 1}), ignore=["label", "score"])
    assert isinstance(found, Demonstration)
    assert found.metadata == {"label": 0, "score": 1}
    (item,) = read(lines(tmp_path / "b.jsonl", {**SHOWN, "label": 0, "score": 1}), ignore=["score"])
    assert isinstance(item, Item) and item.metadata == {"score": 1}
    (kept,) = read(lines(tmp_path / "c.jsonl", {**SHOWN, "label": 0}), "demonstrations", ignore=["label"])
    assert isinstance(kept, Demonstration) and kept.metadata == {"label": 0}


def test_every_such_field_of_a_file_is_named_at_once_with_a_row(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", SHOWN, {**SHOWN, "label": 0}, {**SHOWN, "my score": 0})
    with pytest.raises(DataError) as error:
        check(path)
    assert "'label' (row 2), 'my score' (row 3)" in str(error.value)
    assert str(error.value).endswith("--ignore label --ignore 'my score'")


def test_the_reason_names_a_format_that_reads_the_field(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", {**SHOWN, "label": 0})
    with pytest.raises(DataError, match="could be read --as kto"):
        list(read(path, "demonstrations"))


def test_who_asks_for_the_prompts_of_demonstrations_gets_them(tmp_path: Path) -> None:
    (found,) = read(lines(tmp_path / "a.jsonl", SHOWN), "prompts")
    assert found == Prompt("Name a colour.")


def test_a_chat_beside_its_first_question_is_a_demonstration(tmp_path: Path) -> None:
    row = {"prompt": "hi", "prompt_id": "1", "messages": [*CHAT, {"role": "user", "content": "more"}, CHAT[1]]}
    (found,) = read(lines(tmp_path / "a.jsonl", row))
    assert isinstance(found, Demonstration)
    assert len(found.prompt.content) == 3 and found.text == "yo" and found.metadata == {"prompt_id": "1"}


@pytest.mark.parametrize("name", ["question", "query", "input"])
def test_the_prompt_has_other_names_too(tmp_path: Path, name: str) -> None:
    rows = [{name: "hi", **more} for more in ({}, {"answer": "yo"}, {"chosen": "yo", "rejected": "no"})]
    found = [next(iter(read(lines(tmp_path / "a.jsonl", row)))) for row in rows]
    assert [type(row) for row in found] == [Prompt, Demonstration, Item]
    assert all((row if isinstance(row, Prompt) else row.prompt) == Prompt("hi") for row in found)  # type: ignore[union-attr]


def test_the_context_of_an_instruction_is_asked_and_a_system_prompt_stands_before_it(tmp_path: Path) -> None:
    row = {"system_prompt": "Be brief.", "instruction": "Who?", "context": "It was Ann.", "response": "Ann."}
    (found,) = read(lines(tmp_path / "a.jsonl", row))
    assert isinstance(found, Demonstration)
    assert found.prompt == Prompt("Who?\nIt was Ann.", "Be brief.") and found.metadata == {}
