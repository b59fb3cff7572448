"""Lists the columns of exports, for the formats that must know them beforehand: CSV and Parquet.

A type is one of the names below, a `list[...]` of a type, or a tuple of fields (an object).

    text, bool, int, float
    json     an object of any shape, as JSON text
    turns    a list of {role, content}, and other fields if any message of the file has them
    said     text, or turns if any prompt of the file is a chat
    answer   text, or turns if any message of the file has other fields
    ("rich", TYPE)  a column that exists only if a row of the file has tools or an answer of several turns
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Type = Any  # a name; ("list", Type); or a tuple of Fields
Field = tuple[str, Type]
Fields = tuple[Field, ...]


@dataclass(frozen=True)
class Columns:
    """Holds the columns of one kind of export.

    said:  columns that hold text or messages; in Parquet all of them have the same type
    twin:  whether chats have a column of their own, `messages`, so that a text differs from a chat of one message
    cells: the columns of CSV, if they differ from those of `parquet`
    """

    parquet: Fields
    said: tuple[str, ...] = ()
    twin: bool = False
    cells: tuple[str, ...] = ()

    @property
    def csv(self) -> tuple[str, ...]:
        return self.cells or tuple(name for name, kind in self.parquet if kind[0] != "rich")

    def is_chat(self, row: Mapping[str, Any]) -> bool:
        return any(isinstance(row.get(name), list) for name in self.said)

    def is_rich(self, row: Mapping[str, Any]) -> bool:
        """Return whether a message holds more than role and text, or the row has tools or turns."""
        chats = [row[name] for name in (*self.said, "prompt") if isinstance(row.get(name), list)]
        longer = any("messages" in answer for answer in row.get("completions", ()))
        longer = longer or any(isinstance(row.get(name), list) for name in self._answers)
        return bool(row.get("tools")) or longer or any(not _is_plain(turn) for chat in chats for turn in chat)

    @property
    def _answers(self) -> tuple[str, ...]:
        return tuple(name for name, kind in self.parquet if kind == "answer")

    def fields(self, chats: bool, rich: bool = False) -> Fields:
        """Return the columns of a file.

        chats: whether it has chats;  rich: whether it has messages that hold more than a text
        """
        return tuple((name, kind) for name, wide in self.parquet if (kind := _narrowed(wide, chats, rich)) is not None)

    def row(self, row: Mapping[str, Any], chats: bool, rich: bool = False) -> dict[str, Any]:
        """Return a row as `fields` describes it."""
        found = dict(row)
        if self.twin and isinstance(found["prompt"], list):
            found["messages"] = found.pop("prompt")
        if chats:
            for name in self.said:
                if isinstance(found.get(name), str):
                    role = "user" if name == "prompt" else "assistant"
                    found[name] = [{"role": role, "content": found[name]}]
        if rich:
            for name in self._answers:
                if isinstance(found[name], str):
                    found[name] = [{"role": "assistant", "content": found[name]}]
            for name in (*self.said, *self._answers, "messages"):
                if isinstance(found.get(name), list):
                    found[name] = [_in_columns(turn) for turn in found[name]]
            if "completions" in found:
                found["completions"] = [_rich_answer(answer) for answer in found["completions"]]
        return found


def _is_plain(turn: Mapping[str, Any]) -> bool:
    return turn.keys() == {"role", "content"} and turn["content"] is not None


def _narrowed(kind: Type, chats: bool, rich: bool) -> Type:
    """Return a type as one file has it; None where the file does without the column."""
    if kind == "answer":
        return RICH_TURNS if rich else "text"
    if kind == "said":
        kind = "turns" if chats else "text"
    if kind == "turns":
        return RICH_TURNS if rich else kind
    if isinstance(kind, str):
        return kind
    if kind[0] == "rich":
        return _narrowed(kind[1], chats, rich) if rich else None
    if kind[0] == "list":
        return _list(_narrowed(kind[1], chats, rich))
    return tuple((name, narrow) for name, wide in kind if (narrow := _narrowed(wide, chats, rich)) is not None)


def _in_columns(turn: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message whose fields without a column of their own stand together under "prefloop"."""
    own = {
        name: value
        for name, value in turn.items()
        if name not in _TURN or (_TURN[name] == "text" and not isinstance(value, str | None))
    }
    return {**{name: value for name, value in turn.items() if name not in own}, **({"prefloop": own} if own else {})}


def _rich_answer(answer: Mapping[str, Any]) -> dict[str, Any]:
    turns = answer.get("messages")
    return {**answer, "messages": [_in_columns(turn) for turn in turns]} if turns else dict(answer)


def _list(inner: Type) -> Type:
    return ("list", inner)


_TURN: Mapping[str, Type] = {
    "role": "text",
    "content": "text",
    "reasoning_content": "text",
    "tool_calls": "json",
    "tool_call_id": "text",
    "name": "text",
    "prefloop": "json",
}
RICH_TURNS = _list(tuple(_TURN.items()))
_TOOLS: Field = ("tools", ("rich", "json"))

_ORIGIN: Fields = (("criterion", "text"), ("annotator", "text"), ("simulated", "bool"), ("item_id", "text"))

PAIRS = Columns(
    (
        ("prompt", "said"),
        ("chosen", "said"),
        ("rejected", "said"),
        _TOOLS,
        ("margin", "float"),
        ("probability", "float"),
        ("judges", "int"),
        ("weight", "float"),
        *_ORIGIN,
    ),
    said=("prompt", "chosen", "rejected"),
)
KTO = Columns(
    (("prompt", "said"), ("completion", "said"), ("label", "bool"), _TOOLS, *_ORIGIN),
    said=("prompt", "completion"),
)
PROMPTS = Columns((("prompt", "said"), ("system", "text"), _TOOLS, ("metadata", "json")), said=("prompt",))
DEMONSTRATIONS = Columns(
    (("prompt", "said"), ("system", "text"), _TOOLS, ("completion", "answer"), ("metadata", "json")),
    said=("prompt",),
)

_COMPLETION: Fields = (
    ("id", "text"),
    ("text", "text"),
    ("messages", ("rich", "turns")),
    ("model", "text"),
    ("policy_version", "text"),
    ("token_ids", _list("int")),
    ("logprobs", _list("float")),
    ("finish_reason", "text"),
    ("sampling", "json"),
    ("tokenizer", "text"),
    ("metadata", "json"),
)
_RANKING: Fields = (
    ("annotator", "text"),
    ("criterion", "text"),
    ("tiers", _list(_list("text"))),
    ("unacceptable", _list("text")),
    ("none_acceptable", "bool"),
    ("ratings", "json"),
    ("comment", "text"),
    ("flags", _list("text")),
    ("shown", _list("text")),
    ("duration_s", "float"),
    ("created_at", "text"),
    ("supersedes", "text"),
    ("simulated", "bool"),
    ("metadata", "json"),
    ("prefloop", "json"),
)
RANKINGS = Columns(
    (
        ("id", "text"),
        ("prompt", "text"),
        ("messages", "turns"),
        ("system", "text"),
        _TOOLS,
        ("completions", _list(_COMPLETION)),
        ("rankings", _list(_RANKING)),
        ("metadata", "json"),
        ("prefloop", "json"),
    ),
    twin=True,
)
# These are for spreadsheets: each completion of each ranking has a row, and so has each item that nobody has ranked.
PLACES = Columns(
    (),
    cells=(
        "item_id",
        "external_id",
        "round",
        "source",
        "system",
        "prompt",
        "ranking_id",
        "annotator",
        "criterion",
        "simulated",
        "created_at",
        "duration_s",
        "supersedes",
        "none_acceptable",
        "flags",
        "comment",
        "completion",
        "text",
        "model",
        "policy_version",
        "rank",
        "shown",
        "unacceptable",
        "ratings",
    ),
)
