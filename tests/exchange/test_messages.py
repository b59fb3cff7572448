"""Whatever a message holds beside role and text is read, compared and written again; parts of text are text."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prefloop.exchange import (
    RowError,
    read,
    write_demonstrations,
    write_kto,
    write_pairs,
    write_prompts,
    write_rankings,
)
from prefloop.exchange.formats.canonical import to_record
from prefloop.messages import Message, call_text, digest
from prefloop.types import Demonstration, Item, Prompt

Record = dict[str, Any]
USER = {"role": "user", "content": "Weather in Oslo?"}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"properties": {"city": {}, "days": {}}}}}]


def calls(name: str = "weather", given: object = None, id: str = "1") -> list[Record]:
    function = {"name": name, "arguments": {"city": "Oslo"} if given is None else given}
    return [{"id": id, "type": "function", "function": function}]


def says(content: object = "Let me look.", **more: object) -> Record:
    return {"role": "assistant", "content": content, **more}


def lines(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def one(tmp_path: Path, record: object) -> Any:
    (found,) = read(lines(tmp_path / "file.jsonl", record))
    return found


# -- compared ----------------------------------------------------------------------------------------------------------

DIFFERENT: dict[str, tuple[Record, Record]] = {
    "another tool": (says(tool_calls=calls()), says(tool_calls=calls("delete"))),
    "another argument": (says(tool_calls=calls()), says(tool_calls=calls(given={"city": "Bergen"}))),
    "another type of argument": (says(tool_calls=calls(given={"d": 3})), says(tool_calls=calls(given={"d": "3"}))),
    "a call or none": (says(tool_calls=calls()), says()),
    "two calls or one": (says(tool_calls=calls() + calls(id="2")), says(tool_calls=calls())),
    "a call in the rejected one alone": (says(), says(tool_calls=calls())),
    "reasoning": (says(reasoning_content="It rains."), says(reasoning_content="It is dry.")),
    "thinking": (says(thinking="It rains."), says()),
    "a name": (says(name="Ann"), says(name="Bob")),
    "a refusal": (says(refusal="I may not."), says()),
    "an old function_call": (says(None, function_call=calls()[0]["function"]), says("Rain.")),
    "a field nobody here has heard of": (says(mood={"kind": 1}), says(mood={"kind": 2})),
}


@pytest.mark.parametrize("case", DIFFERENT)
def test_answers_that_differ_beside_their_text_are_no_tie_and_look_different(tmp_path: Path, case: str) -> None:
    chosen, rejected = DIFFERENT[case]
    for record in (
        {"prompt": [USER], "chosen": [chosen], "rejected": [rejected]},
        {"chosen": [USER, chosen], "rejected": [USER, rejected]},
    ):
        item = one(tmp_path, record)
        first, second = item.completions
        assert item.rankings[0].tiers == ((first.id,), (second.id,))
        assert first.text != second.text
        same = one(tmp_path, {**record, "rejected": record["chosen"]})
        assert len(same.rankings[0].tiers) == 1


def test_bookkeeping_of_a_message_is_metadata_and_does_not_tell_prompts_apart(tmp_path: Path) -> None:
    asked = [{**USER, "timestamp": 3, "language": "en"}]
    found = one(tmp_path, {"prompt": asked})
    assert found.id == Prompt((Message(**USER),)).id and found.content[0].plain
    assert found.metadata == {"message_fields": {"0": {"timestamp": 3, "language": "en"}}}


def test_the_ids_of_plain_messages_are_what_they_always_were() -> None:
    plain = Prompt((Message("user", "a"), Message("assistant", "b")), "s")
    assert plain.id == digest("prompt", [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "s")
    several = (Message("assistant", "b"), Message("user", "c"), Message("assistant", "d"))
    told = "assistant: b\n\nuser: c\n\nassistant: d"
    assert Demonstration(plain, told, messages=several).id == Demonstration(plain, told).id == "6024c98a9df802ae"
    assert Prompt("a", tools=({"name": "f"},)).id != Prompt("a").id


# -- read by people ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"city": "Oslo"}, "weather(city=Oslo)"),
        ('{"city": "Oslo", "days": 3}', "weather(city=Oslo, days=3)"),
        (
            {"days": "3", "day": "next week", "wet": True, "at": None},
            'weather(days="3", day="next week", wet=true, at=null)',
        ),
        ("city is Oslo", "weather(city is Oslo)"),
        ({"where": {"city": "Oslo"}, "not": "true"}, 'weather(where={"city": "Oslo"}, not="true")'),
        ({}, "weather()"),
    ],
)
def test_a_call_reads_like_a_call(given: object, said: str) -> None:
    assert call_text({"function": {"name": "weather", "arguments": given}}) == said
    assert call_text({"id": "7", "name": "weather", "arguments": given}) == f"{said} [7]"


def test_an_answer_shows_what_it_calls_and_a_prompt_its_tools_and_results(tmp_path: Path) -> None:
    asked = [
        USER,
        says(None, tool_calls=calls()),
        {"role": "tool", "tool_call_id": "1", "name": "weather", "content": "3 C"},
    ]
    item = one(
        tmp_path,
        {"prompt": asked, "chosen": [says(tool_calls=calls("map", {}))], "rejected": [says("3.")], "tools": TOOLS},
    )
    assert [c.text for c in item.completions] == ["Let me look.\ncalls map() [1]", "3."]
    assert item.prompt.text == (
        "tools:\nweather(city, days)\n\nuser: Weather in Oslo?\n\nassistant: calls weather(city=Oslo) [1]\n\n"
        "tool weather [1]: 3 C"
    )


# -- other spellings ---------------------------------------------------------------------------------------------------


def test_calls_and_tools_as_json_text_are_the_same_as_lists(tmp_path: Path) -> None:
    listed = {"prompt": [USER], "chosen": [says(tool_calls=calls())], "rejected": [says()], "tools": TOOLS}
    told = {**listed, "chosen": [says(tool_calls=json.dumps(calls()))], "tools": json.dumps(TOOLS)}
    assert one(tmp_path, told) == one(tmp_path, listed)
    assert one(tmp_path, {**listed, "tools": [json.dumps(TOOLS[0])]}) == one(tmp_path, listed)
    assert one(tmp_path, {"prompt": "a", "functions": [TOOLS[0]["function"]]}).tools == (TOOLS[0]["function"],)
    assert one(tmp_path, {"prompt": "a", "tools": []}) == one(tmp_path, {"prompt": "a", "tools": "[]"}) == Prompt("a")


def test_sharegpt_calls_and_observations_are_calls_and_results_of_tools(tmp_path: Path) -> None:
    turns = [
        {"from": "human", "value": "Weather in Oslo?"},
        {"from": "function_call", "value": json.dumps(calls()[0]["function"])},
        {"from": "observation", "value": "3 C"},
        {"from": "gpt", "value": "3 degrees."},
    ]
    found = one(tmp_path, {"conversations": turns, "tools": json.dumps([TOOLS[0]["function"]])})
    assert isinstance(found, Demonstration) and found.text == "3 degrees." and len(found.prompt.tools) == 1
    _, call, result = found.prompt.content
    assert call == Message("assistant", None, {"tool_calls": [calls()[0]["function"]]})
    assert result == Message("tool", "3 C")
    ends = one(tmp_path, {"conversations": turns[:2]})
    assert isinstance(ends, Demonstration) and ends.text == "calls weather(city=Oslo)"


REFUSED: dict[str, tuple[Record, str]] = {
    "calls are no JSON": (says(tool_calls="{"), "tool_calls of message 2 of messages is no JSON"),
    "a call without a name": (says(tool_calls=[{"id": "1"}]), "names no function"),
    "arguments are a list": (says(tool_calls=calls(given=[1])), "the arguments of a tool call"),
    "says nothing": (says(None), "must be text, not null"),
    "an argument that is no number": (says(tool_calls=calls(given={"at": float("nan")})), "holds NaN"),
    "NaN inside JSON text": (says(tool_calls='[{"name": "f", "arguments": {"at": NaN}}]'), "holds NaN"),
    "calls nested too deeply": (says(tool_calls="[" * 5000), "is no JSON"),
    "only a name": (says(None, name="Ann"), "must be text, not null"),
    "sharegpt's call is no JSON": ({"from": "function_call", "value": "weather"}, "is no JSON"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_call_is_refused_with_its_place(tmp_path: Path, case: str) -> None:
    message, reason = REFUSED[case]
    (found,) = read(lines(tmp_path / "file.jsonl", {"messages": [USER, message]}), "demonstrations")
    assert isinstance(found, RowError) and reason in found.reason


NAN = float("nan")


@pytest.mark.parametrize(
    "tools", ["hammer", "3", [3], [{"type": "function"}], {"parameters": {}}, [{"name": "f", "x": NAN}]]
)
def test_tools_that_are_none_are_refused(tmp_path: Path, tools: object) -> None:
    found = one(tmp_path, {"prompt": "a", "tools": tools})
    assert isinstance(found, RowError) and "tools" in found.reason


# -- parts of content --------------------------------------------------------------------------------------------------


def parts(*texts: str, type: str = "text") -> list[Record]:
    return [{"type": type, "text": text} for text in texts]


def test_parts_of_text_are_put_together_as_chat_templates_do(tmp_path: Path) -> None:
    plain = {
        "prompt": [{"role": "user", "content": "Name a colour."}],
        "chosen": [says("Blue.")],
        "rejected": [says("7")],
    }
    split = {
        "prompt": [{"role": "user", "content": parts("Name ", "a colour.", type="input_text")}],
        "chosen": [says(parts("Blue."))],
        "rejected": [says(parts("7", type="output_text"))],
    }
    assert one(tmp_path, split) == one(tmp_path, plain)
    record = {
        "prompt": plain["prompt"],
        "completions": [{"id": "a", "messages": split["chosen"]}, {"id": "b", "text": "7"}],
    }
    assert [c.text for c in one(tmp_path, record).completions] == ["Blue.", "7"]
    assert one(tmp_path, {"messages": [*split["prompt"], *split["chosen"]]}).text == "Blue."


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"type": "image_url", "image_url": {"url": "x"}}, "holds an image"),
        ({"type": "image", "image": "x"}, "holds an image"),
        ({"type": "input_audio", "input_audio": {}}, "holds an audio"),
        ({"type": "video"}, "holds a video"),
        ({"type": "input_file", "file_id": "1"}, "holds a file"),
        ({"type": "tool_use", "id": "1"}, "holds a part of type 'tool_use'"),
    ],
)
def test_parts_that_are_no_text_are_refused_by_name(tmp_path: Path, part: Record, said: str) -> None:
    turns = [USER, says(), {"role": "user", "content": [*parts("And here?"), part]}]
    found = one(tmp_path, {"prompt": turns, "chosen": [says()], "rejected": [says("7")]})
    assert isinstance(found, RowError) and f"message 3 of prompt {said}" in found.reason
    assert found.reason.endswith("prefloop reads text only")


@pytest.mark.parametrize(
    "record", [{"prompt": [USER]}, {"messages": [USER, says()]}, {"prompt": "a", "completion": "b"}]
)
def test_a_row_with_images_beside_its_messages_is_refused(tmp_path: Path, record: Record) -> None:
    found = one(tmp_path, {**record, "images": ["cat.png"]})
    assert isinstance(found, RowError) and found.reason == "the row holds images; prefloop reads text only"
    assert not isinstance(one(tmp_path, {**record, "images": []}), RowError)


# -- written again -----------------------------------------------------------------------------------------------------

RESULT = {"role": "tool", "content": "3 C", "name": "weather", "tool_call_id": "1"}
PAIR = {
    "prompt": [USER, says(None, tool_calls=calls(given={"city": "Oslo", "at": 3})), RESULT],
    "chosen": [says("3 degrees.", reasoning_content="Easy."), {"role": "user", "content": "Sure?"}, says("Yes.")],
    "rejected": [says("", tool_calls=calls(given='{"z": 1, "a": 2}'), refusal="No.")],
    "tools": TOOLS,
}
PLAIN = {"prompt": "hello?", "chosen": "yes", "rejected": "no"}


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_canonical_records_come_back_as_they_were_to_the_byte(tmp_path: Path, name: str) -> None:
    items = list(read(lines(tmp_path / "in.jsonl", PAIR, PLAIN, {**PLAIN, "tools": TOOLS})))
    write_rankings(items, tmp_path / name)
    again = list(read(tmp_path / name))
    assert again == items and all(isinstance(i, Item) for i in again)
    write_rankings(again, tmp_path / f"again_{name}")
    assert (tmp_path / name).read_bytes() == (tmp_path / f"again_{name}").read_bytes()
    assert json.dumps(to_record(again[0])) == json.dumps(to_record(items[0]))  # The order of arguments stays too.


WRITERS: dict[str, tuple[Callable[..., object], Record]] = {
    "pairs": (write_pairs, PAIR),
    "kto": (write_kto, {**PAIR, "completion": PAIR["rejected"], "label": True, "chosen": None, "rejected": None}),
    "demonstrations": (write_demonstrations, {"prompt": PAIR["prompt"], "completion": PAIR["chosen"], "tools": TOOLS}),
    "prompts": (write_prompts, {"prompt": PAIR["prompt"], "tools": TOOLS}),
}


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize("what", WRITERS)
def test_every_export_keeps_calls_tools_and_reasoning(tmp_path: Path, what: str, suffix: str) -> None:
    write, record = WRITERS[what]
    (first,) = read(lines(tmp_path / "in.jsonl", {k: v for k, v in record.items() if v is not None}))
    write([first], tmp_path / f"out.{suffix}")
    (again,) = read(tmp_path / f"out.{suffix}")
    assert not isinstance(again, RowError), again.reason
    prompts = [x if isinstance(x, Prompt) else x.prompt for x in (first, again)]
    assert prompts[0] == prompts[1] and prompts[0].tools == tuple(TOOLS)
    answers = [x.completions if isinstance(x, Item) else [x] for x in (first, again)]
    if what != "prompts":
        assert [(a.text, a.messages) for a in answers[0]] == [(a.text, a.messages) for a in answers[1]]


def test_a_spreadsheet_shows_the_calls_and_the_tools(tmp_path: Path) -> None:
    items = list(read(lines(tmp_path / "in.jsonl", PAIR)))
    for write, name in ((write_rankings, "r.csv"), (write_pairs, "p.csv")):
        write(items, tmp_path / name)
        text = (tmp_path / name).read_text(encoding="utf-8-sig")
        assert "weather(city, days)" in text and "calls weather(city=Oslo, at=3)" in text and "refuses: No." in text


def test_a_parquet_file_of_plain_chats_has_the_columns_it_always_had(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    items = list(read(lines(tmp_path / "in.jsonl", {"prompt": [USER], "chosen": [says()], "rejected": [says("7")]})))
    write_pairs(items, tmp_path / "p.parquet")
    schema = pq.read_schema(tmp_path / "p.parquet")
    assert "tools" not in schema.names and [f.name for f in schema.field("chosen").type.value_type] == [
        "role",
        "content",
    ]


@pytest.mark.parametrize(
    ("field", "keys", "asks", "answers"),
    [
        ("conversations", ("from", "value"), "human", "chatgpt"),
        ("conversations", ("from", "value"), "user", "assistant"),
        ("conversation", ("role", "content"), "user", "assistant"),
        ("messages", ("role", "content"), "human", "AI"),
        ("messages", ("role", "content"), "User", "model"),
        ("messages", ("from", "value"), "user", "bot"),
    ],
)
def test_whoever_answers_last_gave_the_demonstration(
    tmp_path: Path, field: str, keys: tuple[str, str], asks: str, answers: str
) -> None:
    turns = [{keys[0]: asks, keys[1]: "hi"}, {keys[0]: answers, keys[1]: "yo"}]
    (found,) = read(lines(tmp_path / "a.jsonl", {field: turns}))
    assert isinstance(found, Demonstration) and found.text == "yo"
    assert found.prompt.content == (Message("user", "hi"),)


def test_a_chat_that_ends_with_a_stranger_is_no_prompt(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "hi"}, {"role": "narrator", "content": "yo"}]
    (found,) = read(lines(tmp_path / "a.jsonl", {"messages": turns}))
    assert isinstance(found, RowError) and "'narrator'" in found.reason


def test_messages_whose_fields_are_lists_are_messages(tmp_path: Path) -> None:
    """`datasets` keeps a sequence of objects so, and its Parquet files do with it."""
    pq.write_table(
        pa.table({"messages": [{"role": ["user", "assistant"], "content": ["hi", "yo"]}]}), tmp_path / "a.parquet"
    )
    (found,) = read(tmp_path / "a.parquet")
    assert isinstance(found, Demonstration) and found.text == "yo"
