"""The columns of what is exported, for the formats that need to know them beforehand: CSV and Parquet.

A type is one of the names below; `list[...]` and a tuple of fields (an object) nest.

    text, bool, int, float
    json     an object of any shape, as JSON text
    turns    a list of {role, content}
    said     text, or turns where any prompt of the file is a chat
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
    """What one kind of export has in a row.

    said:  columns that hold text or messages; in Parquet all of them take the same shape.
    twin:  the canonical record keeps the difference between text and a chat of one message: its chats have a column
           of their own, `messages`.
    cells: the columns of CSV, where they are not simply those of `parquet`.
    """

    parquet: Fields
    said: tuple[str, ...] = ()
    twin: bool = False
    cells: tuple[str, ...] = ()

    @property
    def csv(self) -> tuple[str, ...]:
        return self.cells or tuple(name for name, _ in self.parquet)

    def is_chat(self, row: Mapping[str, Any]) -> bool:
        return any(isinstance(row.get(name), list) for name in self.said)

    def fields(self, chats: bool) -> Fields:
        """The columns of a file with or without chats."""
        said = "turns" if chats else "text"
        return tuple((name, said if kind == "said" else kind) for name, kind in self.parquet)

    def row(self, row: Mapping[str, Any], chats: bool) -> dict[str, Any]:
        """A row as `fields` describes it."""
        found = dict(row)
        if self.twin and isinstance(found["prompt"], list):
            found["messages"] = found.pop("prompt")
        if chats:
            for name in self.said:
                if isinstance(found.get(name), str):
                    role = "user" if name == "prompt" else "assistant"
                    found[name] = [{"role": role, "content": found[name]}]
        return found


def _list(inner: Type) -> Type:
    return ("list", inner)


_ORIGIN: Fields = (("criterion", "text"), ("annotator", "text"), ("simulated", "bool"), ("item_id", "text"))

PAIRS = Columns(
    (
        ("prompt", "said"),
        ("chosen", "said"),
        ("rejected", "said"),
        ("margin", "float"),
        ("probability", "float"),
        ("judges", "int"),
        ("weight", "float"),
        *_ORIGIN,
    ),
    said=("prompt", "chosen", "rejected"),
)
KTO = Columns(
    (("prompt", "said"), ("completion", "said"), ("label", "bool"), *_ORIGIN),
    said=("prompt", "completion"),
)
PROMPTS = Columns((("prompt", "said"), ("system", "text"), ("metadata", "json")), said=("prompt",))
DEMONSTRATIONS = Columns(
    (("prompt", "said"), ("system", "text"), ("completion", "text"), ("metadata", "json")), said=("prompt",)
)

_COMPLETION: Fields = (
    ("id", "text"),
    ("text", "text"),
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
        ("completions", _list(_COMPLETION)),
        ("rankings", _list(_RANKING)),
        ("metadata", "json"),
        ("prefloop", "json"),
    ),
    twin=True,
)
# for spreadsheets: a row for each completion of each ranking (and of each item that nobody has ranked)
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
