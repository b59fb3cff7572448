"""Limits what strangers can do to the server, such as guessing passwords and sending deeply nested bodies."""

from __future__ import annotations

import json
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256
from ipaddress import ip_address, ip_network
from math import isinf
from typing import Any

from prefloop.errors import DataError
from prefloop.store.people.rows import login_of

MAX_DEPTH = 32  # levels of nesting in JSON; our own has 5
MAX_DIGITS = 100  # A number in JSON may have so many characters; Python's floats take 25.
_KEYS = 20_000  # So many accounts and addresses are remembered; the oldest are forgotten first.


class Throttle:
    """Counts login attempts for each account and each address, with a waiting time that doubles.

    An account's waiting time is at most a minute, so that strangers can slow its owner down but not lock them out; an
    address's is at most a quarter of an hour. Names are counted whether or not they exist, and are kept as hashes,
    because people sometimes type a password there. Each server process counts for itself.
    """

    _FREE = {"account": 5, "address": 20}
    _LONGEST_S = {"account": 60.0, "address": 900.0}
    _FORGET_S = 3600.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        # Each value is (count, time of the last attempt).
        self._failures: OrderedDict[tuple[str, bytes], tuple[int, float]] = OrderedDict()

    def attempt(self, account: str, address: str) -> float:
        """Count an attempt before it is made, also if many come at once. Return the seconds to wait; 0 means none."""
        now = self._clock()
        with self._lock:
            waits = [self._wait(key, now) for key in self._keys(account, address)]
            if max(waits) > 0:
                return max(waits)
            for key in self._keys(account, address):
                count, last = self._failures.get(key, (0, now))
                self._failures[key] = (count + 1 if now - last < self._FORGET_S else 1, now)
                self._failures.move_to_end(key)
            while len(self._failures) > _KEYS:
                self._failures.popitem(last=False)
        return 0.0

    def succeeded(self, account: str, address: str) -> None:
        """Reset the account. The address loses only this attempt, else one known account would reset it."""
        of_account, of_address = self._keys(account, address)
        with self._lock:
            self._failures.pop(of_account, None)
            if of_address in self._failures:
                count, last = self._failures[of_address]
                self._failures[of_address] = (max(count - 1, 0), last)

    def _wait(self, key: tuple[str, bytes], now: float) -> float:
        count, last = self._failures.get(key, (0, now))
        over = count - self._FREE[key[0]]
        if over < 0 or now - last >= self._FORGET_S:
            return 0.0
        return max(last + min(2.0 ** min(over, 20), self._LONGEST_S[key[0]]) - now, 0.0)

    def _keys(self, account: str, address: str) -> tuple[tuple[str, bytes], tuple[str, bytes]]:
        return ("account", sha256(_login(account)).digest()), ("address", network_of(address).encode())


def _login(account: str) -> bytes:
    """Return the name as the store looks it up, so that another spelling is the same account."""
    try:
        return login_of(account).encode()
    except DataError:
        return b"\0" + account.encode("utf-8", "replace")


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
