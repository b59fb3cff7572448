"""Runs the server as one process over any store, or as several over Postgres."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from sqlalchemy import make_url
from uvicorn.supervisors import Multiprocess

from prefloop.config import CONFIG_NAME, Annotate, load_config
from prefloop.errors import ConfigError, PrefloopError
from prefloop.store import People, Queue, Role, ServerLock, Store, put_address
from prefloop.store.queue.rules import CHANGEABLE
from prefloop.web.app import create_app
from prefloop.web.listening import listen, options, run_one, shown, terminate
from prefloop.web.security.hosts import Hosts
from prefloop.web.webhooks import WebhookNotifier, check_addresses

FILL_EVERY_S = 15.0
PATIENCE_S = 20.0  # The server waits so many seconds for the store; browsers wait about as long for an answer.
_WORKER = "PREFLOOP_ANNOTATE"  # By this environment variable a worker process finds its project.


@dataclass(frozen=True)
class Address:
    """Holds the server's address, and a one-time link for the owner while there is no owner yet."""

    url: str
    owner_link: str | None
    warnings: tuple[str, ...]


def serve(
    root: Path,
    overrides: Sequence[str],
    host: str,
    port: int,
    workers: int,
    ready: Callable[[Address], None],
) -> None:
    """Serve until Ctrl-C or SIGTERM. `ready` is called once, when connections are accepted.

    port: 0 takes a free one

    Raises ConfigError for an address that is not available, or for several workers over SQLite. Raises BusyError if
    another server uses the SQLite file.
    """
    config = load_config(root / CONFIG_NAME, list(overrides))
    check_addresses(config.annotate.webhooks)
    Hosts.of(config.annotate)  # Wrong settings are reported here, before anything starts.
    if workers > 1 and make_url(config.project.store).get_backend_name() == "sqlite":
        raise ConfigError(
            f"--workers {workers} needs Postgres: SQLite has one writer. Leave --workers out (one process serves 50 "
            "people), or set [project] store to postgresql+pg8000://user:password@host/name"
        )
    with ExitStack() as stack:
        listening = stack.enter_context(closing(listen(host, port)))
        store = stack.enter_context(_open(config.project.store, root))
        if store.database.sqlite:
            stack.enter_context(ServerLock(Path(store.database.label).resolve()))
        app = create_app(root, config, store, host) if workers == 1 else None
        token = People(store).owner_link()
        url = _url(config.annotate, host, listening.getsockname()[1])
        queue = Queue(store, config.annotate, seed=config.project.seed)
        stack.callback(_keep_filled(queue))
        if config.annotate.webhooks:
            bell = WebhookNotifier(store, config.project.name, config.annotate.webhooks)
            bell.start()
            stack.callback(bell.stop)
        put_address(store, url)
        stack.callback(_leave, store)
        warnings = [*_warnings(host, config.annotate, store), *_changed(queue)]
        told = Address(url, f"{url}/join/{token}" if token else None, tuple(warnings))
        before = signal.signal(signal.SIGTERM, terminate)
        stack.callback(signal.signal, signal.SIGTERM, before)
        try:
            if app is not None:
                run_one(app, listening, options(config.annotate), lambda: ready(told))
            else:
                ready(told)
                given = {"root": str(root), "overrides": list(overrides), "bound": host}
                _run_many(given, listening, options(config.annotate) | {"workers": workers})
        except KeyboardInterrupt:
            pass  # This is the usual way to stop a server; answers in progress have been finished.


def invitation(root: Path, overrides: Sequence[str], role: Role, host: str, port: int) -> str:
    """Return a one-time link for a new person. Whoever can open the store may make one."""
    config = load_config(root / CONFIG_NAME, list(overrides))
    with Store.open(config.project.store, root, create=False) as store:
        return f"{_url(config.annotate, host, port)}/join/{People(store).invite(None, role)}"


def _open(store: str, root: Path) -> Store:
    """Open the store with limited waits.

    The tracebacks of SQLAlchemy's pool are turned off, because the line about the database says the same.
    """
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
    return Store.open(store, root, patience_s=PATIENCE_S)


def _run_many(given: dict[str, Any], listening: socket.socket, options: dict[str, Any]) -> None:
    """Run several processes on a socket of our own.

    `uvicorn.run` opens its socket without saying that it is TCP. Then asyncio leaves Nagle's algorithm on, and every
    response is delayed.
    """
    os.environ[_WORKER] = json.dumps(given)
    try:
        config = uvicorn.Config("prefloop.web.serve:worker", factory=True, **options)
        Multiprocess(config, sockets=[listening]).run()
    finally:
        del os.environ[_WORKER]


def worker() -> FastAPI:
    """Return the application of one of several processes. The environment names the project."""
    given = json.loads(os.environ[_WORKER])
    root = Path(given["root"])
    config = load_config(root / CONFIG_NAME, given["overrides"])
    return create_app(root, config, _open(config.project.store, root), given["bound"])


def _keep_filled(queue: Queue) -> Callable[[], None]:
    """Put items that other commands add into the queue while the server runs. Returns a function that stops it."""
    stop = threading.Event()

    def run() -> None:
        while True:
            try:
                queue.fill()
            except PrefloopError as error:
                print(f"filling the queue: {error}", file=sys.stderr)
            if stop.wait(FILL_EVERY_S):
                return

    thread = threading.Thread(target=run, name="fill", daemon=True)
    thread.start()

    def end() -> None:
        stop.set()
        thread.join(10)

    return end


def _leave(store: Store) -> None:
    """Remove the server's address from the store. If the store is away, people find out by themselves."""
    with suppress(PrefloopError):
        put_address(store, None)


def _url(settings: Annotate, host: str, port: int) -> str:
    """Return the address that others are told."""
    return settings.public_url.rstrip("/") if settings.public_url else f"http://{shown(host)}:{port}"


def _changed(queue: Queue) -> list[str]:
    """Return the settings of [annotate] in the file that a change in the browser overrides."""
    keys = [key for key, change in queue.rules.changes().items() if change.counts and key in CHANGEABLE]
    if not keys:
        return []
    return [f"[annotate] {', '.join(keys)}: changed in the browser; that counts until prefloop.toml is edited there."]


def _warnings(host: str, settings: Annotate, store: Store) -> list[str]:
    found = store.warnings()
    try:
        outside = not ip_address(host).is_loopback
    except ValueError:
        outside = host != "localhost"
    if outside and not (settings.public_url or "").startswith("https://"):
        found.append(
            f"{host} can be reached from other machines, and passwords travel as they are: put a proxy with TLS in "
            "front, and set [annotate] public_url to its address and proxies to where it runs."
        )
    if outside and not settings.public_url:
        found.append(
            f"The server answers to {shown(host)} and to its addresses. Names that people use beside these belong in "
            "[annotate] public_url or hosts."
        )
    return found
