"""A row that cannot be used is reported with its line and reason; every other row is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prefloop.exchange import RowError, read
from prefloop.types import Item

GOOD: dict[str, Any] = {
    "prompt": "p",
    "completions": [{"id": "c0", "text": "a"}, {"id": "c1", "text": "b"}],
    "rankings": [{"annotator": "w", "criterion": "quality", "tiers": [["c0"], ["c1"]]}],
}


def changed(**fields: Any) -> bytes:
    return json.dumps({**GOOD, **fields}).encode()


def ranked(**fields: Any) -> bytes:
    return changed(rankings=[{**GOOD["rankings"][0], **fields}])


def completed(**fields: Any) -> bytes:
    return changed(completions=[{"id": "c0", "text": "a", **fields}, {"id": "c1", "text": "b"}])


DEEP = 100_000
BAD = {
    "not JSON": (b"{'prompt': 1}", "not JSON"),
    "half a row": (changed()[:-5], "not JSON"),
    "a list": (b"[1]", "not a JSON object"),
    "a text": (b'"prompt"', "not a JSON object"),
    "no prompt": (b'{"completions": [], "rankings": []}', "no prompt"),
    "null prompt": (changed(prompt=None), "no prompt"),
    "empty prompt": (changed(prompt=" \n"), "prompt is empty"),
    "empty chat": (changed(prompt=[]), "prompt is empty"),
    "prompt is a number": (changed(prompt=3), "prompt must be a list, not a number"),
    "message is text": (changed(prompt=["hi"]), "must be an object"),
    "a part without text": (
        changed(prompt=[{"role": "user", "content": [{"type": "text"}]}]),
        "whose text is null",
    ),
    "no role": (changed(prompt=[{"content": "hi"}]), "role of message 1 of prompt must be text"),
    "empty completion": (completed(text=""), "the text of completion 'c0' is empty"),
    "no completions": (changed(completions=[]), "at least two completions; this record has 0"),
    "completions is text": (changed(completions="ab"), "completions must be a list, not text"),
    "one completion": (changed(completions=GOOD["completions"][:1], rankings=[]), "at least two completions"),
    "same id twice": (completed(id="c1"), "two completions have the id 'c1'"),
    "no completion id": (completed(id=None), "the id of a completion must be text"),
    "ranks a stranger": (ranked(tiers=[["c0"], ["c9"]]), "no completion has the id 'c9', which is ranked"),
    "ranks twice": (ranked(tiers=[["c0"], ["c1", "c0"]]), "'c0' is ranked twice"),
    "ranks twice in a tier": (ranked(tiers=[["c0", "c0"]]), "'c0' is ranked twice"),
    "empty tier": (ranked(tiers=[["c0"], []]), "a tier is empty"),
    "tiers of text": (ranked(tiers=["c0", "c1"]), "tiers must be a list, not text"),
    "no tiers": (ranked(tiers=None), "tiers must be a list"),
    "no annotator": (ranked(annotator=None), "annotator of a ranking must be text"),
    "no criterion": (ranked(criterion=""), "criterion of a ranking is empty"),
    "rates a stranger": (ranked(ratings={"c7": {"fun": 1}}), "'c7', which is rated"),
    "rating is text": (ranked(ratings={"c0": {"fun": "5"}}), "the rating 'fun' must be a number, not text"),
    "shows a stranger": (ranked(shown=["c0", "x"]), "'x', which is shown"),
    "marks a stranger": (ranked(unacceptable=["x"]), "'x', which is marked unacceptable"),
    "yes is not true": (ranked(none_acceptable="yes"), "none_acceptable must be true or false"),
    "negative time": (ranked(duration_s=-1), "duration_s must not be negative"),
    "NaN": (ranked(duration_s=float("nan")), "duration_s must be a number, not NaN"),
    "Infinity": (ranked(ratings={"c0": {"fun": float("-inf")}}), "the rating 'fun' must be a number, not -Infinity"),
    "too large": (changed()[:-1] + b', "id": 1e999}', "id must be text, not a number out of range (1e999)"),
    "huge int": (changed()[:-1] + b', "id": ' + b"9" * 30 + b"}", "out of range"),
    "very huge int": (changed()[:-1] + b', "system": ' + b"9" * 9999 + b"}", "out of range"),
    "no fields": (b"{}", "an object without fields"),
    "NaN in a message": (changed(prompt=[{"role": "user", "content": "x", "n": float("nan")}]), "a message holds NaN"),
    "half a surrogate": (changed(prompt="\ud800"), "half a surrogate"),
    "half a surrogate in a key": (changed(**{"\udfff": 1}), "half a surrogate"),
    "escaped NUL": (changed(prompt="a\0"), "NUL"),
    "raw NUL": (b'{"prompt": "\x00"}', "NUL"),
    "not UTF-8": (b'{"prompt": "\xff"}', "not UTF-8: byte 13 is 0xff"),
    "nested lists": (b'{"prompt": ' + b"[" * DEEP + b"]" * DEEP + b"}", "nested"),
    "nested objects": (changed()[:-1] + b', "x": ' + b'{"a":' * 300 + b"1" + b"}" * 301, "nested more than 200"),
    "a key twice": (b'{"prompt": "a", "prompt": "b"}', "names 'prompt' twice"),
    "metadata clash": (changed(gold=1, metadata={"gold": 2}), "'gold' stands both"),
    "metadata is text": (changed(metadata="m"), "metadata must be an object"),
    "token ids of text": (completed(token_ids=["a"]), "token_ids must be whole numbers"),
    "negative token": (completed(token_ids=[-1]), "token_ids must be whole numbers"),
    "logprobs missing": (completed(token_ids=[1, 2], logprobs=[-0.5]), "2 token_ids but 1 logprobs"),
    "not ours": (changed(prefloop={"item_id": 3}), "prefloop.item_id must not be a number"),
    "odd split": (changed(prefloop={"split": "test"}), "prefloop.split must be"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_is_reported_and_its_neighbours_are_kept(tmp_path: Path, case: str) -> None:
    row, reason = BAD[case]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(changed() + b"\n" + row + b"\n" + changed(id="last") + b"\n")
    first, error, last = read(path)
    assert isinstance(first, Item) and isinstance(last, Item) and last.external_id == "last"
    assert isinstance(error, RowError)
    assert error.line == 2
    assert reason in error.reason
    assert len(error.text) <= 120 and (error.text + error.reason).isprintable()


U, A = {"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}
BAD_IN_OTHER_FORMATS = [
    ("pairs", {"prompt": "p", "chosen": "a"}, "no rejected"),
    ("pairs", {"prompt": "p", "chosen": "a", "rejected": ""}, "rejected is empty"),
    ("pairs", {"prompt": "p", "chosen": 3, "rejected": "b"}, "chosen must be text, not a number"),
    ("pairs", {"prompt": "p", "chosen": "a", "rejected": "b", "margin": "big"}, "margin must be a number"),
    ("pairs", {"chosen": "a", "rejected": "b"}, "share no beginning"),
    ("pairs", {"chosen": "same", "rejected": "same!"}, "chosen without the beginning it shares with rejected is empty"),
    ("pairs", {"prompt": [U], "chosen": [U], "rejected": [U, A]}, "after the prompt, chosen must begin and end"),
    ("pairs", {"prompt": [A], "chosen": [U, A], "rejected": [U, A]}, "after the prompt, chosen must begin and end"),
    ("pairs", {"prompt": "other", "chosen": [U, A], "rejected": [U, A]}, "prompt is not part of the conversation"),
    ("hh-rlhf", {"chosen": "\n\nHuman: a", "rejected": "\n\nHuman: b"}, "share no beginning"),
    (
        "kto",
        {"prompt": "p", "completion": "c", "label": 2},
        "label must say true or false (or 1 or 0, yes or no, good or bad), not 2",
    ),
    ("kto", {"prompt": "p", "completion": "c"}, "no label"),
    ("kto", {"messages": [{"role": "user", "content": "u"}], "label": True}, "last is the assistant's"),
    ("demonstrations", {"prompt": "p"}, "no completion"),
    ("demonstrations", {"messages": [{"role": "user", "content": "u"}] * 2}, "last is the assistant's"),
    ("prompts", {"text": "t"}, "no prompt"),
    ("ranked-replies", {"prompt": "p", "responses": ["a", "b"], "ranks": [0]}, "one rank each"),
    ("oasst", {"message_tree_id": "m", "prompt": "p"}, "prompt must be an object"),
]


@pytest.mark.parametrize(("format", "record", "reason"), BAD_IN_OTHER_FORMATS)
def test_every_format_names_what_is_wrong(tmp_path: Path, format: str, record: object, reason: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(record))
    (error,) = read(path, format)
    assert isinstance(error, RowError)
    assert reason in error.reason


def test_what_is_shown_of_a_row_cannot_command_a_terminal(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes("\x1b[2J\u202e\x07 evil \u2028".encode() + b"\xff" * 300 + b"\n")
    (error,) = read(path, "pairs")
    assert isinstance(error, RowError)
    assert error.text.isprintable() and "\\x1b[2J\\u202e\\x07" in error.text
