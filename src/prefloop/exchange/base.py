"""Defines what reading a file gives, and the error that a reader raises for a record it cannot use."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from prefloop.types import Demonstration, Item, Prompt

# One JSON object, checked by `source`: its numbers are finite, its text is clean and its depth is bounded.
Record = Mapping[str, Any]

SHOWN_CHARACTERS = 120


@dataclass(frozen=True)
class RowError:
    """States that a row cannot be used. `line` counts from 1 (rows, in Parquet); `text` is its start, safe to print."""

    line: int
    reason: str
    text: str = ""


Parsed = Prompt | Demonstration | Item | RowError


class FieldLook(Enum):
    """Says what an unused field may be, by its name and the shape of its value."""

    VERDICT = "a verdict"  # label, winner, preference, better_response_id, chosen
    SCORE = "a score"  # score, rating, rank, reward, margin, votes
    ANSWER = "an answer"  # response, completion, output
    NUMBERED = "one answer of several"  # response_1, answer_b


class BadRow(Exception):
    """States why a record cannot be used. Readers raise it, and it never leaves this package."""


@dataclass(frozen=True)
class Format:
    """Says how one family of files is recognised and read.

    fits:  whether a record has this format; called for the first records of a file only
    parse: turns records into items, prompts or demonstrations; raises `BadRow` if nothing of a record can be used, and
           yields a `BadRow` for a part that cannot be used
    uses:  the fields of a record that `parse` reads; all other fields become metadata
    stops: what an unused field must not look like (see `unused`); an import stops at the first one that does
    group: for formats that spread one list over several rows: rows with equal keys are parsed together. Without it,
           `parse` always gets exactly one record
    """

    name: str
    description: str
    fits: Callable[[Record], bool]
    parse: Callable[[Sequence[Record]], Iterable[Prompt | Demonstration | Item | BadRow]]
    uses: Callable[[Record], Collection[str]]
    stops: frozenset[FieldLook] = frozenset(FieldLook)
    group: Callable[[Record], str] | None = None


@dataclass(frozen=True, repr=False)
class Unrepresentable:
    """Stands for a value that JSON or a database cannot hold: NaN, bytes, a date after the year 9999.

    Metadata keeps `kept` in its place. A reader that needs the field finds neither a text nor a number there, and its
    message names `what` it found instead.
    """

    what: str
    kept: str

    def __repr__(self) -> str:
        return self.what


def words(text: str) -> frozenset[str]:
    """Return the set of words that are written in one text."""
    return frozenset(text.split())


def printable(text: str, limit: int = SHOWN_CHARACTERS) -> str:
    """Return the start of a text, with every character that a terminal could obey (escapes, newlines) spelt out."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:limit])
    return shown[:limit]


def quoted(value: object) -> str:
    """Return a value as it may appear in a message: short and safe to print."""
    text = repr(value)
    return printable(text if len(text) <= 60 else text[:57] + "...", 60)


def kind(value: object) -> str:
    """Return the name of the type of a JSON value, for messages to people."""
    if value is None:
        return "null"
    if isinstance(value, Unrepresentable):
        return value.what
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "text"
    return "a list" if isinstance(value, list) else "an object"
