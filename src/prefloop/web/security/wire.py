"""Serves one connection: it limits the time for sending and receiving, and refuses what is not a valid request.

It extends uvicorn's protocol with deadlines. uvicorn itself only ends connections that are idle between two requests.
It keeps a connection forever that sends half of its headers, sends its body a byte at a time, or reads nothing, and it
has room for only a few hundred of them (docs/adr/0016-deadlines-on-the-wire.md).
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from functools import partial
from ipaddress import ip_address, ip_network
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from prefloop.web.answers import on_the_wire
from prefloop.web.security.limits import network_of

HEADERS_S = 10.0  # the time from a request's first byte to the end of its headers
FRESH_S = 30.0  # the time for a new connection that sends nothing; browsers open some ahead
BODY_S = 20.0  # the time for a body of any size
BYTES_PER_S = 1000  # A body gets one more second for each of these many bytes,
LONGEST_BODY_S = 600.0  # but no more seconds than this in all.
STALL_S = 15.0  # In this time a client must have read STALL_S * BYTES_PER_S bytes of the response.
LOOK_EVERY_S = 1.0
TOTAL = 500  # the connections of one process
HEADER_BYTES, HEADER_LINES, TARGET_BYTES = 32_768, 100, 8_192

_log = logging.getLogger("prefloop.web.security.wire")


def protocol(most: int, proxies: Sequence[str]) -> Any:
    """Return the factory of `Connection`s for uvicorn's `http`.

    most: how many connections one address may have; `proxies` may have any number
    """
    _log.setLevel(logging.ERROR)  # Errors of clients are reported to them, not to the operator.
    return partial(Connection, watch=_Watch(), most=most, proxies=tuple(proxies))


class _Watch:
    """Checks all connections of a server from time to time. A timer for each would keep an idle process awake."""

    def __init__(self) -> None:
        self._open: set[Connection] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, connection: Connection) -> None:
        self._open.add(connection)
        if self._timer is None:
            self._later(connection.loop)

    def remove(self, connection: Connection) -> None:
        self._open.discard(connection)

    def _later(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_later(LOOK_EVERY_S, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        if self._open:
            self._later(loop)
        for connection in list(self._open):
            connection.look()


class Connection(H11Protocol):
    """Serves one connection, which either waits for its client or works for it.

    Connections that wait make room for new ones, the oldest first, so that strangers who hold connections keep nobody
    out.
    """

    def __init__(self, *args: Any, watch: _Watch, most: int, proxies: Sequence[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logger = _log
        self.conn: _Requests = _Requests(h11.SERVER, HEADER_BYTES)
        self.ws_protocol_class = None
        self.limit_concurrency = None  # `_make_room` limits the connections instead.
        self._watch, self._most, self._proxies = watch, most, proxies
        self.peer = ""
        self.since = 0.0  # the time when the client began its current step
        self._received = 0  # the bytes since then
        # Here stand the bytes that wait to be read by the client, and when they were counted.
        self._left, self._taken_at, self._resumed = 0, 0.0, False

    # -- events of the event loop ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        host = self.client[0] if self.client else "unknown"
        self.peer = network_of(host)
        self._begin()
        self._watch.add(self)
        if not self._make_room(_is_in(host, self._proxies)):
            self._end(503, "too many connections at this moment; try again in a few seconds")

    def connection_lost(self, exc: Exception | None) -> None:
        self._watch.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]:
            self._begin()
        self._received += len(data)
        super().data_received(data)

    def resume_writing(self) -> None:
        self._resumed = True
        super().resume_writing()

    def on_response_complete(self) -> None:
        self._begin()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        self._end(*self.conn.refusal)

    def _unsupported_upgrade_warning(self) -> None:
        """Ignore a request for an unsupported upgrade, without a line in the log."""

    # -- deadlines -------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self.since, self._received = self.loop.time(), 0

    def waits(self) -> bool:
        """Return whether it waits for the client to send a request, or to read a response that should be read by now.

        A client that sends further requests before that, as no browser does, can wait too.
        """
        if self.cycle is None or self.cycle.response_complete or self.conn.their_state is h11.SEND_BODY:
            return True
        slow = self.transport.get_write_buffer_size() > 0 and self.loop.time() - self._taken_at > HEADERS_S / 2
        return slow or self.conn.trailing_data[0] != b""

    def drop(self) -> None:
        """Close the connection at once, without a response."""
        self.transport.abort()

    def look(self) -> None:
        """End the connection if its client has used up its time."""
        now = self.loop.time()
        if self._stalled(now):
            self.drop()
        elif not self.transport.is_closing() and (late := self._late(now - self.since)):
            self._end(408, late)

    def _late(self, seconds: float) -> str | None:
        """Return why the client's time is used up; None if it is not.

        A client that never sent anything gets no response.
        """
        if self.conn.their_state is h11.IDLE:
            if self.conn.trailing_data[0]:
                return f"the headers did not come within {HEADERS_S:.0f} s" if seconds > HEADERS_S else None
            if self.cycle is None and seconds > FRESH_S:
                self.drop()
        elif self.conn.their_state is h11.SEND_BODY:
            allowed = min(BODY_S + self._received / BYTES_PER_S, LONGEST_BODY_S)
            return "the body came too slowly" if seconds > allowed else None
        return None

    def _stalled(self, now: float) -> bool:
        """Return whether the client reads the response too slowly or not at all."""
        left = self.transport.get_write_buffer_size()
        if left == 0 or self._resumed or left <= self._left - STALL_S * BYTES_PER_S or self._left == 0:
            self._left, self._taken_at, self._resumed = left, now, False
        return left > 0 and now - self._taken_at > STALL_S

    def _end(self, status: int, message: str) -> None:
        """Send the reason and close. Nobody will read the application's response any more."""
        if self.transport.is_closing():
            return
        if self.cycle is not None and self.cycle.response_started and self.conn.their_state is not h11.IDLE:
            self.drop()  # A response to this request has begun, so no other can be sent.
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.write(on_the_wire(status, message))
        self.transport.close()

    def _make_room(self, proxy: bool) -> bool:
        """End a waiting connection if there are too many, of this address or in all. Return whether there was one."""
        known = [one for one in self.connections if isinstance(one, Connection) and one is not self]
        others = [one for one in known if not one.transport.is_closing()]
        mine = [one for one in others if one.peer == self.peer]
        if not proxy and len(mine) >= self._most:
            others = mine
        elif len(others) < TOTAL:
            return True
        size = Counter(one.peer for one in others)
        waiting = [one for one in others if one.waits()]
        if waiting:
            min(waiting, key=lambda one: (-size[one.peer], one.since)).drop()
        return bool(waiting)


class _Requests(h11.Connection):
    """Accepts HTTP/1 requests for this server, of limited size and with an unambiguous end."""

    refusal = (400, "this is no HTTP/1.1 request")

    def next_event(self) -> Any:
        try:
            event = super().next_event()
            if isinstance(event, h11.Request):
                _check(event)
        except h11.RemoteProtocolError as error:
            # The rest of the message quotes the client.
            self.refusal = (
                error.error_status_hint,
                str(error).partition(":")[0],
            )
            raise
        return event


def _check(request: h11.Request) -> None:
    """Raise RemoteProtocolError for requests that h11 accepts and this server does not.

    If a body has two lengths, a proxy and a server may see different ends, and one may take for the next request what
    the other takes for a body.
    """
    if request.http_version not in (b"1.0", b"1.1"):
        raise h11.RemoteProtocolError("this server speaks HTTP/1.1")
    if len(request.target) > TARGET_BYTES:
        raise h11.RemoteProtocolError(f"the address is longer than {TARGET_BYTES} bytes", 414)
    if not request.target.startswith(b"/") and (request.method, request.target) != (b"OPTIONS", b"*"):
        raise h11.RemoteProtocolError("this server is no proxy; send the path only, and the host in Host")
    if len(request.headers) > HEADER_LINES or sum(len(n) + len(v) for n, v in request.headers) > HEADER_BYTES:
        raise h11.RemoteProtocolError(f"more than {HEADER_LINES} headers or {HEADER_BYTES} bytes of them", 431)
    names = [name for name, _ in request.headers]
    chunked = names.count(b"transfer-encoding")
    if chunked and (b"content-length" in names or request.http_version == b"1.0"):
        raise h11.RemoteProtocolError("the body's length is stated in two ways")


def _is_in(host: str, networks: Sequence[str]) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return any(address in ip_network(network, strict=False) for network in networks)
