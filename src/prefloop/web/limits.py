"""Bounds on what strangers can make the server do: guess passwords, send deep bodies."""

from __future__ import annotations

import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256
from ipaddress import ip_address, ip_network

MAX_DEPTH = 32  # of JSON; ours is 5 deep
_KEYS = 20_000  # accounts and addresses remembered; the oldest are forgotten first


class Throttle:
    """Attempts at a password, counted for each account and each address, with a wait that doubles.

    An account's wait ends at a minute, so that strangers can slow its owner down but not lock them out; an address's at
    a quarter of an hour. Names are counted whether or not they exist, and kept hashed: people mistype passwords there.
    Each server process counts for itself.
    """

    _FREE = {"account": 5, "address": 20}
    _LONGEST_S = {"account": 60.0, "address": 900.0}
    _FORGET_S = 3600.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures: OrderedDict[tuple[str, bytes], tuple[int, float]] = OrderedDict()  # (count, when the last)

    def attempt(self, account: str, address: str) -> float:
        """Count an attempt before it is made (many at once get no head start). Seconds to wait; 0 = go on."""
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
        """The account starts afresh; the address loses only this attempt, or one known account would free it."""
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
        name = account.strip().casefold().encode("utf-8", "replace")
        return ("account", sha256(name).digest()), ("address", _network(address).encode())


def _network(address: str) -> str:
    """An IPv6 customer owns a whole /64."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address[:100]
    return str(ip_network(f"{address}/64", strict=False)) if parsed.version == 6 else address


def json_problem(body: bytes) -> str | None:
    """Why a JSON body is not even parsed: too deep, or numbers that JSON does not have. None = go on.

    Looks at brackets and literals outside of strings only; whether it is JSON at all is the parser's to say.
    """
    if b"\0" in body:  # UTF-16 or 32, which a parser would guess, and whose bytes mean other brackets
        return "JSON must be UTF-8"
    bare = _STRING.sub(b"", body)
    if re.search(rb"[NI]", bare):
        return "NaN and Infinity are not JSON"
    depth = 0
    for bracket in re.findall(rb"[\[\]{}]", bare):
        depth += 1 if bracket in b"[{" else -1
        if depth > MAX_DEPTH:
            return f"JSON nested deeper than {MAX_DEPTH} levels"
    return None


_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
