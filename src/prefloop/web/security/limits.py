"""Says which bodies are refused before they are parsed, and which network an address belongs to. It knows no store."""

from __future__ import annotations

import json
import re
from ipaddress import ip_address, ip_network
from math import isinf
from typing import Any

MAX_DEPTH = 32  # levels of nesting in JSON; our own has 5
MAX_DIGITS = 100  # A number in JSON may have so many characters; Python's floats take 25.


def network_of(address: str) -> str:
    """Return the network of an address: a /64 of IPv6, since one customer owns it.

    An IPv4 address counts also if it is written as IPv6.
    """
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address[:100]
    if parsed.version == 4:
        return str(parsed)
    return str(parsed.ipv4_mapped or ip_network((int(parsed) >> 64 << 64, 64)))


def json_problem(body: bytes) -> str | None:
    """Return why a body is refused before it is parsed as JSON; None if it is accepted.

    Reasons are: nesting too deep, numbers too long or not JSON, a key that occurs twice (parsers differ in which one
    counts), and text that cannot be encoded. Whether it is JSON at all is left to the parser.
    """
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError:
        return "JSON must be UTF-8"
    if "\0" in text:  # In UTF-16 or 32 a parser would guess the encoding, and its bytes would mean other brackets.
        return "JSON must be UTF-8"
    depth = 0
    for bracket in _BRACKET.findall(_STRING.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        if depth > MAX_DEPTH:
            return f"JSON nested deeper than {MAX_DEPTH} levels"
    try:
        found = _STRICT.decode(text)
        if _SURROGATE.search(text):
            json.dumps(found, ensure_ascii=False).encode()
    except _Problem as problem:
        return str(problem)
    except UnicodeEncodeError:
        return "a text holds half of a surrogate pair"
    except ValueError:
        return None
    return None


class _Problem(Exception):
    """States a reason to refuse JSON that a parser would accept."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _Problem("an object holds the same key twice")
    return found


def _constant(name: str) -> None:
    raise _Problem("NaN and Infinity are not JSON")


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise _Problem(f"a number has more than {MAX_DIGITS} characters")
    return int(digits)


def _fraction(digits: str) -> float:
    found = float(digits)
    if len(digits) > MAX_DIGITS or isinf(found):
        raise _Problem("a number is too large or too long")
    return found


_STRICT = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_constant, parse_int=_whole, parse_float=_fraction)
_BRACKET = re.compile(r"[\[\]{}]")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
