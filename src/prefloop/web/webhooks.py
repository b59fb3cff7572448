"""Tells other programs that there are new rankings. A call carries no rankings: programs fetch them from the API.

A call says how far the rankings go. A lost call does no harm, since the next one says the same. Only addresses of
[annotate] webhooks are called, redirects are not followed, and every call is signed.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from http.client import HTTPException
from typing import IO, Any
from urllib.parse import urlsplit

from prefloop.errors import ConfigError, PrefloopError
from prefloop.store import People, Store
from prefloop.store.feed import latest

TIMEOUT_S = 10
LONGEST_WAIT_S = 900.0
HEADER = "Prefloop-Signature"


def check_addresses(addresses: Sequence[str]) -> None:
    """Raise ConfigError unless every address is an http or https URL with a host."""
    for address in addresses:
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"[annotate] webhooks: {address!r} is no address. Write https://host/path")


def sign(key: str, at: int, body: bytes) -> str:
    """Return the signature `t=SECONDS,v1=HEX`: HMAC-SHA256 with the project's key over "SECONDS.BODY".

    The time protects against replay.
    """
    digest = hmac.new(key.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


class WebhookNotifier:
    """Looks for new rankings in a thread every `every_s` seconds and calls each address until it answers with 2xx.

    It also calls once at the start, since the server may have been stopped before it could.
    """

    def __init__(self, store: Store, project: str, addresses: Sequence[str], every_s: float = 5.0) -> None:
        check_addresses(addresses)
        self._store, self._project, self._every_s = store, project, every_s
        self._key = People(store).secret("webhook")
        self._told = {address: -1 for address in addresses}
        # Each value is (earliest time of the next call, failures in a row).
        self._again = {address: (0.0, 0) for address in addresses}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="webhooks", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(TIMEOUT_S)

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            try:
                self.notify()
            except PrefloopError as error:  # The database may be away for a moment; people see it on their pages.
                print(f"webhooks: {error}", file=sys.stderr)

    def notify(self, clock: Callable[[], float] = time.time) -> int:
        """Call each address that has not heard of the newest ranking; return how many answered."""
        cursor, answered = latest(self._store), 0
        for address, told in self._told.items():
            not_before, failures = self._again[address]
            if cursor == told or clock() < not_before:
                continue
            if problem := self._call(address, cursor, int(clock())):
                wait = min(self._every_s * 2.0 ** min(failures, 20), LONGEST_WAIT_S)
                self._again[address] = (clock() + wait, failures + 1)
                print(f"webhooks: {_where(address)}: {problem}; again in {wait:.0f} s", file=sys.stderr)
            else:
                self._told[address], self._again[address] = cursor, (0.0, 0)
                answered += 1
        return answered

    def _call(self, address: str, cursor: int, at: int) -> str | None:
        """Call an address. Return why it failed, or None."""
        body = json.dumps({"event": "rankings", "project": self._project, "cursor": cursor, "at": at}).encode()
        headers = {"Content-Type": "application/json", HEADER: sign(self._key, at, body), "User-Agent": "prefloop"}
        request = urllib.request.Request(address, body, headers, method="POST")
        try:
            with _opener().open(request, timeout=TIMEOUT_S) as answer:
                return None if 200 <= answer.status < 300 else f"answered {answer.status}"
        except (OSError, HTTPException, ValueError) as error:
            return str(error)


def _where(address: str) -> str:
    """Return the address without path and user, which may hold a secret."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.hostname}"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirects, so that only the addresses in the settings are called."""

    def redirect_request(self, req: Any, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str) -> None:
        return None


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_NoRedirect, urllib.request.ProxyHandler({}))
