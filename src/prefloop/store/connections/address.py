"""Stores the address of the running annotation server, which `prefloop run` passes on."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

from prefloop.store.queue.fill import keep_setting
from prefloop.store.queue.read import setting
from prefloop.store.store import Store

_KEY = "address"


def put_address(store: Store, url: str | None) -> None:
    """Store the server's address; None when it stops. A server that is killed leaves its address behind."""
    with store.database.write() as connection:
        keep_setting(connection, _KEY, url)


def get_address(store: Store) -> str | None:
    """Return the address that was stored last."""
    with store.database.read() as connection:
        found: str | None = setting(connection, _KEY, None)
        return found


def listens(address: str) -> bool:
    """Return whether anything listens there, because a server that was killed could not take its address back."""
    url = urlsplit(address)
    try:
        port = url.port or (443 if url.scheme == "https" else 80)
        with socket.create_connection((url.hostname, port), timeout=1):
            return True
    except OSError:
        return False
