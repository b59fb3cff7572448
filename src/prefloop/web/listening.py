"""Listens at an address and runs one server there. What is served is the caller's."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from prefloop.config import Annotate
from prefloop.errors import ConfigError
from prefloop.web.security.wire import protocol


def listen(host: str, port: int) -> socket.socket:
    """Return a bound socket; port 0 takes a free one. Raises ConfigError for an address that is not available."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with ExitStack() as stack:
            found = stack.enter_context(closing(socket.socket(family, kind, protocol)))
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
            stack.pop_all()  # The socket stays open.
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error}. Choose another with --port, or stop what runs there."
        ) from None
    return found


def options(settings: Annotate) -> dict[str, Any]:
    """Return uvicorn's options. There is no access log, since addresses of invitations are secrets.

    Warnings and errors go to standard error. A proxy's statements about its clients are believed only if the settings
    name the proxy.
    """
    return {
        "access_log": False,
        "log_config": None,
        "server_header": False,
        "lifespan": "on",
        "timeout_graceful_shutdown": 5,
        "timeout_keep_alive": 30,
        "http": protocol(settings.connections, settings.proxies),
        "ws": "none",
        "proxy_headers": bool(settings.proxies),
        "forwarded_allow_ips": list(settings.proxies),
    }


class _Server(uvicorn.Server):
    """Is a uvicorn server that calls `ready` once it accepts connections."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._ready()


def run_one(app: ASGIApp, listening: socket.socket, options: dict[str, Any], ready: Callable[[], None]) -> None:
    _Server(uvicorn.Config(app, **options), ready).run(sockets=[listening])


def terminate(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def shown(host: str) -> str:
    """Return the host in the form in which others can type it."""
    if host in ("0.0.0.0", "::", ""):
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host
