"""Recognises message lists that were written as text: "[{'role': 'user', ...}]", as spreadsheets leave them.

Every record passes here before any reader sees it, so that no format takes such a text for an answer. It reads JSON
(also encoded twice), Python's notation, and numpy's (`array(...)`, or no commas between the lines). A list that is cut
off, or that holds a NaN, makes its row unusable. A text that is not a message list to its last character stays a text;
so do texts inside messages, metadata, and records of our own exports.
"""

from __future__ import annotations

import ast
import json
import re
from typing import Any

from prefloop.exchange.base import BadRow, Record
from prefloop.exchange.values import first_unrepresentable

OWN = "prefloop"
MESSAGE = (("role", "content"), ("from", "value"))
MAX_PARTS = 50_000  # brackets, commas, texts and numbers together; Python's parser needs about a kilobyte for each
_START = re.compile(r"""\s*(?:\w*\.?array\()?[\[(]?\s*\{\s*['"](?:role|from|content|value)['"]\s*:""")
_QUOTED = re.compile(r"""\s*(?:"\s*[\[{]\s*[\[{]?.{0,4}\\"|b['"]\s*[\[{])""")
_PART = re.compile(
    r"""\s+|(?:np\.|numpy\.)?array(?=\()|,\s*dtype=\w+(?=\))|[\[\](){},:]|'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
    r"|-?\d[\d_.eE+-]*|(?:True|False|None|true|false|null|nan|NaN)\b",
    re.DOTALL,
)
_CUT = "a list of messages written as a text is cut off"
_WORDS = {"true": "True", "false": "False", "null": "None"}


def with_parsed_messages(record: Record) -> Record:
    """Return the record with messages in place of texts that are nothing but messages.

    Raises BadRow if one is too large, or if a message holds something that JSON cannot express.
    """
    literal = OWN in record
    return {name: value if name == "metadata" else _decoded(value, literal) for name, value in record.items()}


def _decoded(value: Any, literal: bool) -> Any:
    if isinstance(value, str):
        return value if literal or value[:64].lstrip()[:1] not in tuple('[{("bna') else messages_in(value)
    if isinstance(value, list):
        return [_decoded(inner, literal) for inner in value]
    if not isinstance(value, dict):
        return value
    if (columns := _columns(value)) is not None:
        return columns
    if any(name in value for name, _ in MESSAGE):
        if found := first_unrepresentable(value):
            raise BadRow(f"a message holds {found.what}")
        return value
    return {name: inner if name == "metadata" else _decoded(inner, literal) for name, inner in value.items()}


def _columns(value: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Return messages from {field: list}, as `datasets` stores a sequence of objects; None if it is not that."""
    names = next((pair for pair in MESSAGE if all(isinstance(value.get(name), list) for name in pair)), None)
    if names is None or len({len(of) if isinstance(of, list) else -1 for of in value.values()}) > 1:
        return None
    return [dict(zip(value, row, strict=True)) for row in zip(*value.values(), strict=True)]


def messages_in(text: str) -> str | list[Any]:
    """Return the messages that a text spells out, or the text itself.

    Raises BadRow if they cannot be read completely.
    """
    stripped = text.strip()
    if _QUOTED.match(stripped[:64]):
        unquoted = _unquoted(stripped)
        inner = text if unquoted is None else messages_in(unquoted)
        return inner if isinstance(inner, list) else text
    if not any(f"{quote}{name}{quote}" in stripped for name, _ in MESSAGE for quote in "'\""):
        return text
    if not stripped.endswith(("]", "}", ")")) and not _START.match(stripped[:200]):
        return text
    for read in (_json, _python):
        found = read(stripped)
        found = [found] if isinstance(found, dict) else found
        if isinstance(found, list) and found and all(_is_message(entry) for entry in found):
            return found
    return text


def _unquoted(text: str) -> str | None:
    """Return the content of a quoted text: JSON that was encoded twice, or Python's notation of bytes."""
    try:
        found = ast.literal_eval(text) if text[0] == "b" else json.loads(text)
        return found.decode() if isinstance(found, bytes) else found if isinstance(found, str) else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _is_message(entry: object) -> bool:
    return isinstance(entry, dict) and any(
        isinstance(entry.get(role), str) and content in entry for role, content in MESSAGE
    )


def _json(text: str) -> Any:
    from prefloop.exchange.files.json_values import parse_json

    try:
        return parse_json(text)
    except BadRow:
        return None


def _python(text: str) -> Any:
    at, parts = 0, []
    while at < len(text):
        found = _PART.match(text, at)
        if found is None:
            if text[at] in "'\"" and _START.match(text[:200]):
                raise BadRow(_CUT)
            return None
        at, part = found.end(), found[0]
        if part in ("nan", "NaN") and _START.match(text[:200]):
            raise BadRow("a list of messages written as a text holds NaN")
        if part[-5:] != "array" and part.lstrip(", ")[:6] != "dtype=":  # After these words only brackets are left.
            parts.append(part.replace("\n", "\\n") if part[0] in "'\"" else _WORDS.get(part, part))
        if len(parts) > MAX_PARTS:
            raise BadRow(f"a list of messages written as a Python text has more than {MAX_PARTS:,} parts")
    source = "".join(parts)
    # In numpy's notation a line break is never inside quotes.
    for candidate in (source, re.sub(r"\}\s*\n\s*\{", "}, {", source)):
        try:
            return _plain(ast.literal_eval(candidate))
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            continue
    if _START.match(text[:200]) and sum(map(parts.count, "[({")) > sum(map(parts.count, "])}")):
        raise BadRow(_CUT)
    return None


def _plain(value: Any) -> Any:
    """Return the value in a form that JSON can express. Raises ValueError if there is none."""
    return json.loads(json.dumps(value, allow_nan=False))
