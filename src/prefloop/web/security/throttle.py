"""Limits how fast strangers can guess passwords."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256

from prefloop.errors import DataError
from prefloop.store.people.rows import login_of
from prefloop.web.security.limits import network_of

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
