"""People see what an answer does, not only what it says: calls, results, tools, reasoning; transcripts as turns."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prefloop.exchange import read

pytestmark = pytest.mark.slow

Site = Any
USER = {"role": "user", "content": "Rain in **Oslo**?"}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "How it is", "parameters": {"city": {}}}}]


def call(name: str, **given: Any) -> list[dict[str, Any]]:
    return [{"id": "c1", "type": "function", "function": {"name": name, "arguments": given}}]


ASKED = [
    USER,
    {"role": "assistant", "content": None, "tool_calls": call("weather", city="Oslo")},
    {"role": "tool", "tool_call_id": "c1", "content": "3 C"},
]
CHOSEN = {"role": "assistant", "content": "Let me *look*.", "tool_calls": call("__init__", path="<b>*a*</b>")}
REJECTED = {"role": "assistant", "content": "Let me *look*.", "reasoning_content": "Why _not_?"}
HH = "\n\nHuman: Hello you\n\nAssistant: Good day\n\nHuman: Bye\n\nAssistant:"


def items(tmp_path: Path, *records: dict[str, Any]) -> list[Any]:
    path = tmp_path / "calls.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return list(read(path))


def test_calls_tools_and_reasoning_are_shown_as_they_are_to_annotators_and_reviewers(
    make_site: Callable[..., Site], shot: Any, tmp_path: Path
) -> None:
    (item,) = items(tmp_path, {"prompt": ASKED, "chosen": [CHOSEN], "rejected": [REJECTED], "tools": TOOLS})
    site = make_site([item])
    for who in ("Ada", "Rita"):
        page = site.rank(who) if who == "Ada" else site.page(who)
        if who == "Rita":
            page.goto(f"{site.url}/review/items/{item.id}")
        text = page.inner_text("main")
        for said in (
            "weather(city): How it is",
            "calls weather(city=Oslo) [c1]",
            "3 C",
            'calls __init__(path="<b>*a*</b>") [c1]',
            "thinks: Why _not_?",
            "Let me look.",
        ):
            assert said in text, (who, said)
        shot(page, f"calls-{who}")
    assert not site.trouble


def test_a_transcript_is_shown_as_turns(make_site: Callable[..., Site], shot: Any, tmp_path: Path) -> None:
    (item,) = items(tmp_path, {"prompt": HH, "chosen": "Bye.\n\nHuman: Wait\n\nAssistant: Yes?", "rejected": "No."})
    site = make_site([item])
    page = site.rank("Ada")
    text = page.inner_text("main")
    assert "Human:" not in text and "Assistant:" not in text
    assert all(said in text for said in ("Hello you", "Good day", "Bye", "Wait", "Yes?"))
    shot(page, "transcript")
    assert not site.trouble
