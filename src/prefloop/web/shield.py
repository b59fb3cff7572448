"""What holds for every request and answer, whatever the route: security headers, no writes from other sites, bounded
bodies. Plain ASGI, outside of everything else, so that error pages and static files have it too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prefloop.web.limits import json_problem

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "font-src 'self'",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        # HTML only gets into a page through the one policy that our scripts make, for what the server has cleaned
        "require-trusted-types-for 'script'",
        "trusted-types prefloop",
    )
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
    "x-frame-options": "DENY",
}
PAGE_BYTES = 1_000_000  # of a form or an answer from a browser
API_BYTES = 8_000_000  # of what a program with a token sends
_SAFE = ("GET", "HEAD", "OPTIONS")


class Shield:
    """ASGI middleware; `on_bug` answers for whatever the application failed to."""

    def __init__(self, app: ASGIApp, on_bug: Callable[[Request, Exception], Response]) -> None:
        self._app, self._on_bug = app, on_bug

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":  # there are none
                await send({"type": "websocket.close", "code": 1008})
                return
            await self._app(scope, receive, send)
            return

        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                # pages hold what only their reader may see, also in the history of a shared computer
                headers.setdefault("cache-control", "no-cache" if scope["path"].startswith("/static/") else "no-store")
            await send(message)

        try:
            receive = await _admit(scope, receive)
            await self._app(scope, receive, send_with_headers)
        except _Refused as refused:
            await _refuse(send_with_headers, refused)
        except Exception as error:  # noqa: BLE001 -- the outermost frame: whatever it is, the asker gets an answer
            answer = await run_in_threadpool(self._on_bug, Request(scope), error)
            if not started:
                await answer(scope, receive, send_with_headers)


class _Refused(Exception):
    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


async def _admit(scope: Scope, receive: Receive) -> Receive:
    """Read and check the body of a request that writes; returns what gives it to the application. Raises _Refused."""
    headers = Headers(scope=scope)
    if foreign := _foreign(scope, headers):
        raise _Refused(403, foreign)
    limit = API_BYTES if _is_program(scope, headers) else PAGE_BYTES
    too_large = _Refused(413, f"the body is larger than {limit} bytes")
    if _too_long(headers.get("content-length"), limit):
        raise too_large
    if scope["method"] in _SAFE:
        return receive
    body = await _body(receive, limit)
    if body is None:
        raise too_large
    if "json" in headers.get("content-type", "") and (problem := json_problem(body)):
        raise _Refused(400, problem)
    return _replay(body, receive)


def _is_program(scope: Scope, headers: Headers) -> bool:
    return scope["path"].startswith("/api/") and headers.get("authorization", "").lower().startswith("bearer ")


def _foreign(scope: Scope, headers: Headers) -> str | None:
    """Why a request that writes is not from one of our own pages; None = it is, or it only reads.

    A browser says so in Sec-Fetch-Site (all current ones) and in Origin (all, on posts). Programs with a token are let
    through: at /api/ cookies count for nothing, so another site has nothing to borrow.
    """
    if scope["method"] in _SAFE or _is_program(scope, headers):
        return None
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None and site != "same-origin":
        return "this request comes from another site"
    if origin is not None and urlsplit(origin).netloc.lower() != headers.get("host", "").lower():
        # a proxy may change Host; the browser's own word stands, but only a browser that gives it
        return None if site == "same-origin" else "this request comes from another site"
    if site is None and origin is None:
        return "a request that writes must say where it comes from (Origin or Sec-Fetch-Site)"
    return None


def _too_long(stated: str | None, limit: int) -> bool:
    return stated is not None and (not stated.isdigit() or len(stated) > 12 or int(stated) > limit)


async def _body(receive: Receive, limit: int) -> bytes | None:
    """All of it, or None as soon as it is longer than the limit: a stated length may lie, or be missing."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b"".join(parts)
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            return None
        if not message.get("more_body"):
            return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replay() -> MutableMapping[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def _refuse(send: Send, refused: _Refused) -> None:
    """JSON, whoever asks: no page of ours sends such a request."""
    status, body = refused.status, json.dumps({"error": str(refused)}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 413:
        headers.append((b"connection", b"close"))  # the rest of the body stays unread
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
