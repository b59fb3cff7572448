"""Checks every request and response: known host names, security headers, no writes from other sites, limited bodies.

This is plain ASGI around everything else, so that it covers error pages and static files too.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from python_multipart.multipart import parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prefloop.web.answers import HEADERS, plain, wants_page
from prefloop.web.security.hosts import Hosts
from prefloop.web.security.limits import json_problem

PAGE_BYTES = 1_000_000  # A form or answer from a browser is at most so large.
API_BYTES = 8_000_000  # The body of a program with a token is at most so large.
BYTES = {"/settings/items": 8_100_000}  # This holds a file, and the form around it.
ORDINARY_BYTES = 65_536  # Usual answers are smaller; larger bodies share `HELD_BYTES`.
HELD_BYTES = 64_000_000  # All large bodies together take so much memory; their senders may not have signed in.
_SAFE = ("GET", "HEAD", "OPTIONS")


class RequestChecks:
    """ASGI middleware that checks each request. `on_error` answers if the application fails."""

    def __init__(self, app: ASGIApp, on_error: Callable[[Request, Exception], Response], hosts: Hosts) -> None:
        self._app, self._on_error, self._hosts = app, on_error, hosts
        self._held = 0  # This counts the bytes of large bodies that are in memory now.

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":  # This server has no websockets.
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
                # Pages are private, also in the history of a shared computer.
                headers.setdefault("cache-control", "no-cache" if scope["path"].startswith("/static/") else "no-store")
            await send(message)

        try:
            async with self._admit(scope, receive) as admitted:
                # HEAD is answered like GET; the server leaves the body out (RFC 9110, 9.3.2).
                asked = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
                await self._app(asked, admitted, send_with_headers)
        except ClientDisconnect:
            pass  # An incomplete request needs no answer.
        except Exception as error:  # noqa: BLE001 -- the outermost frame: whatever it is, the asker gets an answer
            answer = await self._answer(Request(scope), error)
            if not started:
                await answer(scope, receive, send_with_headers)

    async def _answer(self, request: Request, error: Exception) -> Response:
        as_page = wants_page(request.url.path, request.headers.get("accept", ""))
        if isinstance(error, _Refused):
            return plain(error.status, str(error), as_page=as_page, headers=error.headers)
        try:
            return await run_in_threadpool(self._on_error, request, error)
        except Exception as another:  # noqa: BLE001 -- the answer to an error has failed: this one cannot
            print(f"{type(another).__name__} while answering {type(error).__name__}", file=sys.stderr)
            return plain(500, "something went wrong in the server", as_page=as_page)

    @asynccontextmanager
    async def _admit(self, scope: Scope, receive: Receive) -> AsyncIterator[Receive]:
        """Check a request and read its body if it writes; yield a `receive` for the application.

        Raises _Refused, and ClientDisconnect if the rest of the body does not come.
        """
        headers = Headers(scope=scope)
        if refusal := self._hosts.refusal(scope, headers.getlist("host")):
            raise _Refused(*refusal)
        if self._hosts.is_public(headers.get("host", "")):
            scope["scheme"] = urlsplit(self._hosts.public).scheme  # A proxy in front may not have sent it.
        if foreign := self._foreign(scope, headers):
            raise _Refused(403, foreign)
        limit = API_BYTES if _is_program(scope, headers) else BYTES.get(scope["path"], PAGE_BYTES)
        if _too_long(headers.get("content-length"), limit):
            raise _too_large(limit)
        if scope["method"] in _SAFE:
            yield receive
            return
        held: list[int] = []
        try:
            body = await self._body(receive, limit, held)
            if problem := await _problem_of(body, headers.get("content-type", "")):
                raise _Refused(400, problem)
            yield _replay(body, receive)
        finally:
            self._held -= sum(held)

    async def _body(self, receive: Receive, limit: int, held: list[int]) -> bytes:
        """Return the whole body, unless it is longer than the limit. A stated length may be wrong or missing.

        `held` counts the bytes of large bodies, which share a limited amount of memory.
        """
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > limit:
                raise _too_large(limit)
            if size > ORDINARY_BYTES:
                if self._held + len(parts[-1]) > HELD_BYTES:
                    raise _Refused(503, "too many large bodies at this moment; try again in a few seconds", _CLOSE)
                held.append(len(parts[-1]))
                self._held += len(parts[-1])
            if not message.get("more_body"):
                return b"".join(parts)

    def _foreign(self, scope: Scope, headers: Headers) -> str | None:
        """Return why a request that writes does not come from one of our pages; None if it does, or only reads.

        Browsers say so in Sec-Fetch-Site (all current ones) and in Origin (all, on posts). At /api/ cookies do not
        count, so another site cannot misuse them.
        """
        if scope["method"] in _SAFE or scope["path"].startswith("/api/"):
            return None
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        if site is not None and site != "same-origin":
            return "this request comes from another site"
        if origin is not None and not self._hosts.is_ours(origin, headers.get("host", "")):
            # A proxy may change Host, so a browser's Sec-Fetch-Site counts if it sends one.
            return None if site == "same-origin" else "this request comes from another site"
        if site is None and origin is None:
            return "a request that writes must say where it comes from (Origin or Sec-Fetch-Site)"
        return None


class _Refused(Exception):
    def __init__(self, status: int, reason: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(reason)
        self.status, self.headers = status, headers


_CLOSE = {"connection": "close"}  # The rest of the body stays unread, so the connection cannot be used again.


def _too_large(limit: int) -> _Refused:
    return _Refused(413, f"the body is larger than {limit} bytes", _CLOSE)


async def _problem_of(body: bytes, content_type: str) -> str | None:
    """Return why a body is refused. Everything that does not call itself a form is checked as JSON."""
    kind, options = parse_options_header(content_type)
    if kind in (b"application/x-www-form-urlencoded", b"multipart/form-data"):
        charset = options.get(b"charset", b"utf-8").lower()
        return None if charset in (b"utf-8", b"utf8") else "forms must be UTF-8"
    if len(body) > ORDINARY_BYTES:
        return await run_in_threadpool(json_problem, body)
    return json_problem(body)


def _is_program(scope: Scope, headers: Headers) -> bool:
    return scope["path"].startswith("/api/") and headers.get("authorization", "").lower().startswith("bearer ")


def _too_long(stated: str | None, limit: int) -> bool:
    return stated is not None and (not stated.isdigit() or len(stated) > 12 or int(stated) > limit)


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replay() -> MutableMapping[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
