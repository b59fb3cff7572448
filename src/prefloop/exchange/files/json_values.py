"""Parses JSON texts, and writes values as text.

Values that JSON cannot express become an `Unrepresentable`. Values that later code could not process are a BadRow. All
file readers use this module, so that a record means the same as a line and from Parquet.
"""

from __future__ import annotations

import json
from typing import Any

from prefloop.exchange.base import BadRow, Record, Unrepresentable, printable

MAX_DEPTH = 200  # levels of nesting; conversation trees need about 40, and Python's parser gives up near 1,000
INT_RANGE = (-(2**63), 2**64 - 1)


def parse_json(text: str) -> Any:
    """Return one JSON value, with an `Unrepresentable` for each number like NaN.

    Raises BadRow, also for a key that occurs twice.
    """
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise BadRow(f"not JSON: {printable(error.msg)} at character {error.pos + 1}") from None
    except RecursionError:
        raise BadRow(f"nested more than {MAX_DEPTH} levels deep") from None


def checked(value: Any) -> Any:
    """Return the value with an `Unrepresentable` for each text that no database or file can hold.

    Raises BadRow for nesting that is too deep, and for such texts as names.
    """
    pending: list[tuple[object, int]] = [(value, 1)]
    odd = False
    while pending:
        part, depth = pending.pop()
        if depth > MAX_DEPTH:
            raise BadRow(f"nested more than {MAX_DEPTH} levels deep")
        if isinstance(part, str):
            odd = odd or unwritable(part) is not None
        elif isinstance(part, dict):
            for name, inner in part.items():
                if found := unwritable(name):
                    raise BadRow(f"has a name that is {found.what}")
                pending.append((inner, depth + 1))
        elif isinstance(part, list):
            pending += [(inner, depth + 1) for inner in part]
    return _marked(value) if odd else value


def _marked(value: Any) -> Any:
    if isinstance(value, str):
        return unwritable(value) or value
    if isinstance(value, dict):
        return {name: _marked(inner) for name, inner in value.items()}
    return [_marked(inner) for inner in value] if isinstance(value, list) else value


def unwritable(text: str) -> Unrepresentable | None:
    if "\x00" in text:
        return Unrepresentable("a text with a NUL character", text.replace("\x00", "\ufffd"))
    if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
        mended = "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)
        return Unrepresentable("a text with half a surrogate pair, which is not a character", mended)
    return None


def _float(text: str) -> float | Unrepresentable:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        return Unrepresentable(f"a number out of range ({printable(text, 40)})", text)
    return value


def _int(text: str) -> int | Unrepresentable:
    if len(text) > 20 or not INT_RANGE[0] <= (value := int(text)) <= INT_RANGE[1]:
        return Unrepresentable(f"a whole number out of range (more than 64 bits: {printable(text, 40)})", text)
    return value


def _constant(text: str) -> Unrepresentable:
    return Unrepresentable(text, text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise BadRow(f"names {printable(repr(twice), 60)} twice in one object")
    return found


ODD = "\x00"  # An `Unrepresentable` has this name in packed records, because no other name can hold this character.


def pack(record: Record) -> str:
    """Return a record as text that `unpack` turns back into an equal one."""
    return json.dumps(record, ensure_ascii=True, default=lambda odd: {ODD: [odd.what, odd.kept]})


def unpack(text: str) -> Record:
    record: Record = json.loads(text, object_hook=lambda o: Unrepresentable(*o[ODD]) if ODD in o else o)
    return record


_DECODER = json.JSONDecoder(parse_float=_float, parse_int=_int, parse_constant=_constant, object_pairs_hook=_object)
