"""Over real sockets, clients stop half-way, send slowly, read nothing, or send what is no request."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest
import uvicorn
from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from prefloop.web.answers import HEADERS
from prefloop.web.listening import options as server_options
from prefloop.web.security import wire
from prefloop.web.security.access import GatedRoute, anyone

from .conftest import PASSWORD, Server

SHORT_S = 0.3
HOST = b"Host: 127.0.0.1\r\n"
ASK = b"GET /login HTTP/1.1\r\n" + HOST + b"\r\n"
POST = b"POST /login HTTP/1.1\r\n" + HOST + b"Sec-Fetch-Site: same-origin\r\n"
FORM = b"Content-Type: application/x-www-form-urlencoded\r\n"


class Live:
    """A server on a port of its own."""

    def __init__(self, server: Server, running: uvicorn.Server, port: int) -> None:
        self.server, self.running, self.port = server, running, port
        self.opened: list[socket.socket] = []

    def open(self, sent: bytes = b"", source: str = "127.0.0.1") -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=20, source_address=(source, 0))
        self.opened.append(connection)
        connection.sendall(sent)
        return connection

    def ask(self, sent: bytes, source: str = "127.0.0.1") -> str:
        """Return all that comes back until the server closes; what is sent should make it do so."""
        return read_all(self.open(sent, source))

    def connections(self) -> int:
        return len(self.running.server_state.connections)

    def until(self, true: Callable[[], bool]) -> None:
        end = time.monotonic() + 20
        while not true():
            assert time.monotonic() < end, "it did not come to that"
            time.sleep(0.02)


def read_all(connection: socket.socket) -> str:
    parts = []
    with closing(connection):
        try:
            while part := connection.recv(65536):
                parts.append(part)
        except ConnectionResetError:
            pass
    return b"".join(parts).decode("latin-1")


def last(request: bytes) -> bytes:
    """Return the same request, after which the server closes."""
    return request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)


def status(answer: str) -> int:
    """Return the status of a whole answer that has the security headers, once."""
    head = answer.partition("\r\n\r\n")[0].lower()
    for name, value in HEADERS.items():
        assert head.count(f"\r\n{name}: {value.lower()}") == 1, (name, answer)
    return int(head.split()[1])


@pytest.fixture
def live(make_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Live]]:
    for name in ("HEADERS_S", "FRESH_S", "BODY_S", "STALL_S"):
        monkeypatch.setattr(wire, name, SHORT_S)
    monkeypatch.setattr(wire, "LOOK_EVERY_S", 0.05)
    with ExitStack() as stack:

        def start(**annotate: object) -> Live:
            server = make_server(**annotate)
            listening = stack.enter_context(closing(socket.create_server(("127.0.0.1", 0))))
            settings = server.app.state.services.config.annotate
            running = uvicorn.Server(uvicorn.Config(server.app, **server_options(settings)))
            thread = threading.Thread(target=running.run, args=([listening],))
            thread.start()
            found = Live(server, running, listening.getsockname()[1])

            def stop() -> None:
                for connection in found.opened:
                    connection.close()
                running.should_exit = True
                thread.join(20)

            stack.callback(stop)
            found.until(lambda: running.started)
            return found

        yield start


# -- who holds connections keeps nobody out ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "held",
    [
        b"",
        b"GET /login HT",
        ASK[:-2],
        POST + b"Content-Length: 100\r\n\r\nx",
        POST + b"Transfer-Encoding: chunked\r\n\r\n1",
        ASK.replace(b"/login", b"/static/app.css") * 300,
    ],
    ids=["silent", "half a line", "half the headers", "half a body", "half a chunk", "pipelined"],
)
def test_half_sent_requests_leave_room_for_whole_ones(
    live: Callable[..., Live], monkeypatch: pytest.MonkeyPatch, held: bytes
) -> None:
    for name in ("HEADERS_S", "FRESH_S", "BODY_S"):
        # This is not about the deadlines, but about the bound on how many connections there are.
        monkeypatch.setattr(wire, name, 60.0)
    here = live(connections=10)
    for _ in range(40):
        here.open(held)
    assert status(here.ask(last(ASK))) == 200
    here.until(lambda: here.connections() <= 10)


def test_the_address_that_holds_most_makes_room_first(
    live: Callable[..., Live], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "TOTAL", 12)
    monkeypatch.setattr(wire, "HEADERS_S", 60.0)
    here = live()
    mine = here.open(last(ASK)[:-2])
    here.until(lambda: here.connections() == 1)
    for _ in range(30):
        here.open(ASK[:-2], source="127.0.0.2")
    assert status(here.ask(last(ASK), source="127.0.0.3")) == 200
    mine.sendall(b"\r\n")
    assert status(read_all(mine)) == 200, "the only connection of its address, and older than all others"


def test_where_everybody_is_being_worked_for_the_next_one_is_told_to_come_again(live: Callable[..., Live]) -> None:
    here, entered, release = live(connections=2), threading.Semaphore(0), threading.Event()

    def slow(request: Request) -> Response:
        entered.release()
        release.wait(20)
        return Response("done")

    router = APIRouter(route_class=GatedRoute)
    router.add_api_route("/slow", slow, dependencies=[Depends(anyone)])
    here.server.app.router.routes.append(router.routes[0])
    working = [here.open(last(ASK).replace(b"/login", b"/slow")) for _ in range(2)]
    for _ in working:
        assert entered.acquire(timeout=20)
    answer = here.ask(last(ASK))
    assert status(answer) == 503 and "retry-after: " in answer
    release.set()
    assert [status(read_all(one)) for one in working] == [200, 200]


def test_a_proxy_may_have_as_many_connections_as_it_needs(live: Callable[..., Live]) -> None:
    here = live(connections=2, proxies=["127.0.0.0/8"])
    idle = [here.open(ASK) for _ in range(6)]
    here.until(lambda: here.connections() == 6)
    assert all(one.recv(12) == b"HTTP/1.1 200" for one in idle)


# -- deadlines ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [ASK[:-2], POST + b"Content-Length: 1000\r\n\r\n"], ids=["headers", "body"])
def test_what_comes_drop_by_drop_comes_too_late(live: Callable[..., Live], start: bytes) -> None:
    here, answer = live(), ""
    connection = here.open(start)
    connection.settimeout(0.05)
    for _ in range(400):
        try:
            answer = connection.recv(65536).decode()
            break
        except TimeoutError:
            connection.sendall(b"x")
    assert status(answer) == 408
    here.until(lambda: here.connections() == 0)


def test_a_body_that_keeps_coming_is_waited_for(live: Callable[..., Live], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "BYTES_PER_S", 100)
    connection = live().open(last(POST) + FORM + b"Content-Length: 600\r\n\r\n")
    for _ in range(6):
        time.sleep(SHORT_S / 3)
        connection.sendall(b"x" * 100)
    assert status(read_all(connection)) == 422, "read to its end, and found to be no form of ours"


def test_a_connection_that_says_nothing_is_closed_without_a_word(live: Callable[..., Live]) -> None:
    here = live()
    assert here.ask(b"") == ""


def test_a_client_that_reads_nothing_is_not_written_to_forever(live: Callable[..., Live]) -> None:
    here = live()
    connection = here.open()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(0.2)
    with pytest.raises((TimeoutError, ConnectionError)):  # Requests are pipelined, until neither side takes any more.
        while True:
            connection.sendall(ASK.replace(b"/login", b"/static/app.css") * 100)
    here.until(lambda: here.connections() == 0)


def test_a_request_whose_body_breaks_off_is_not_half_done(live: Callable[..., Live]) -> None:
    here = live()
    here.server.join("owner", "Olga")
    anna = here.server.join("annotator", "Anna")
    (name, token) = next(iter(here.server.browser("Olga").cookies.items()))
    line = f"POST /people/{anna}/limit HTTP/1.1\r\nCookie: {name}={token}\r\n".encode()
    whole = line + POST.partition(b"\r\n")[2] + FORM
    broken = here.open(whole + b"Content-Length: 10\r\n\r\nlimit=12")
    time.sleep(0.2)  # By then the application has the half of it.
    broken.shutdown(socket.SHUT_RDWR)
    here.until(lambda: here.connections() == 0)
    assert status(here.ask(last(whole) + b"Content-Length: 8\r\n\r\nlimit=34")) == 303
    assert here.server.people.person(anna).limit == 34
    assert [row.what for row in here.server.people.audit() if row.object == anna].count("limit") == 1


# -- what is no request ------------------------------------------------------------------------------------------------

CHUNKED = b"Transfer-Encoding: chunked\r\n"
REFUSED = {
    "an HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9), 400),
    "a TLS greeting": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 500, 400),
    "bytes": (bytes(range(256)) * 10 + b"\r\n\r\n", 400),
    "HTTP/0.9": (b"GET /login\r\n\r\n", 400),
    "HTTP/3.0": (b"GET /login HTTP/3.0\r\n" + HOST + b"\r\n", 400),
    "two lengths": (POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
    "a length and chunks": (POST + b"Content-Length: 3\r\n" + CHUNKED + b"\r\n0\r\n\r\n", 400),
    "chunks in HTTP/1.0": (POST.replace(b"1.1", b"1.0") + CHUNKED + b"\r\n0\r\n\r\n", 400),
    "an unknown coding": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    "a space before the colon": (POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400),
    "a chunk of no size": (POST + CHUNKED + b"\r\nzz\r\n\r\n", 400),
    "many headers": (ASK[:-2] + b"".join(b"a%d: b\r\n" % n for n in range(500)) + b"\r\n", 431),
    "large cookies": (ASK[:-2] + b"Cookie: " + b"a=b; " * 10_000 + b"\r\n\r\n", 431),
    "a long address": (ASK.replace(b"/login", b"/" + b"a" * 20_000), 414),
    "another server's address": (ASK.replace(b"/login", b"http://evil.example/login"), 400),
    "a tunnel": (b"CONNECT evil.example:443 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "no host": (b"GET /login HTTP/1.1\r\n\r\n", 400),
    "two hosts": (ASK[:-2] + b"Host: evil.example\r\n\r\n", 400),
    "a control character in a name": (ASK[:-2] + b"X\x0bY: 1\r\n\r\n", 400),
}


def test_what_is_no_request_gets_a_quiet_answer_with_every_header(
    live: Callable[..., Live], capfd: pytest.CaptureFixture[str]
) -> None:
    here = live()
    found = {name: (sent, status(here.ask(sent))) for name, (sent, _) in REFUSED.items()}
    assert found == REFUSED
    here.until(lambda: here.connections() == 0)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("line", "more", "expected"),
    [
        ("GET /rank", "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n", 401),
        ("GET /login", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n", 200),
        ("OPTIONS *", "", 404),
        ("OPTIONS /login", "", 405),
        ("HEAD /static/app.css", "", 200),
        ("TRACE /login", "", 403),
        ("GET //evil.example/people/", "", 404),
        ("GET /static/..%2f..%2fapp.py", "", 404),
        ("GET /static/%2e%2e/app.py", "", 404),
        ("GET /static/%00", "", 404),
        ("GET /static/app.css", "Range: bytes=0-9\r\n", 206),
        ("GET /static/app.css", "Range: bytes=9-1," + "9" * 99 + "-\r\n", 416),
        ("GET /people;x=/../login", "", 404),
        ("GET /login", "Host: evil.example\r\n", 421),
        ("GET /login", "Host: 127.0.0.1@evil.example\r\n", 400),
        ("POST /login", "Origin: http://[\r\nContent-Length: 0\r\n", 403),
    ],
)
def test_odd_requests_get_ordinary_answers(
    live: Callable[..., Live], capfd: pytest.CaptureFixture[str], line: str, more: str, expected: int
) -> None:
    host = "" if "Host: " in more else HOST.decode()
    sent = f"{line} HTTP/1.1\r\n{host}{more}".encode()
    close = b"" if b"Connection:" in sent else b"Connection: close\r\n"
    connection = live().open(sent + close + b"\r\n")
    if not close:
        connection.shutdown(socket.SHUT_WR)
        assert status(connection.recv(65536).decode()) == expected
    else:
        assert status(read_all(connection)) == expected
    assert capfd.readouterr().err == ""


# -- proxies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "forwarded", "stopped"),
    [
        ({}, "X-Forwarded-For: 198.51.100.{n}", True),
        ({}, "Forwarded: for=198.51.100.{n}", True),
        ({"proxies": ["192.0.2.1"]}, "X-Forwarded-For: 198.51.100.{n}", True),
        ({"proxies": ["127.0.0.1"]}, "X-Forwarded-For: 198.51.100.{n}", False),
        ({"proxies": ["127.0.0.1"]}, "X-Forwarded-For: 198.51.100.{n}, 203.0.113.5", True),
        ({"proxies": ["127.0.0.1"]}, "X-Forwarded-For: 203.0.113.5\r\nX-Forwarded-For: 2001:db8::{n}", True),
        ({"proxies": ["127.0.0.1"]}, "Forwarded: for=198.51.100.{n}", True),
    ],
)
def test_a_forwarded_address_counts_only_from_a_known_proxy(
    live: Callable[..., Live], settings: dict[str, object], forwarded: str, stopped: bool
) -> None:
    """21 guesses at different names: those of one address are slowed down."""
    here, found = live(**settings), []
    for n in range(21):
        body = f"name=nobody{n}&password=a+wrong+password".encode()
        head = POST + forwarded.format(n=n).encode() + b"\r\n" + FORM + b"Content-Length: %d\r\n\r\n" % len(body)
        found.append(status(here.ask(last(head + body))))
    assert found == [401] * 20 + [429 if stopped else 401]


def test_behind_a_proxy_with_tls_the_cookie_is_bound_to_the_host(live: Callable[..., Live]) -> None:
    here = live(public_url="https://rank.example.org", proxies=["127.0.0.1"])
    here.server.join("owner", "Olga")
    body = f"name=Olga&password={PASSWORD.replace(' ', '+')}".encode()
    head = last(POST) + FORM + b"Content-Length: %d\r\n\r\n" % len(body)
    for host, proto in ((b"rank.example.org", b""), (b"127.0.0.1", b"X-Forwarded-Proto: https\r\n")):
        answer = here.ask(head.replace(HOST, b"Host: " + host + b"\r\n" + proto) + body)
        assert status(answer) == 303 and "set-cookie: __Host-" in answer
    assert "set-cookie: prefloop-" in here.ask(head + body)


@pytest.mark.parametrize("accept", ["text/html", "application/json"])
@pytest.mark.parametrize("path", ["/login", "/", "/nowhere", "/logout", "/static/app.css", "/api/rankings", "/join/x"])
def test_head_is_answered_as_get_without_a_body(live: Callable[..., Live], path: str, accept: str) -> None:
    here = live()
    asked = f" {path} HTTP/1.1\r\n{HOST.decode()}Accept: {accept}\r\nConnection: close\r\n\r\n".encode()
    head, _, body = here.ask(b"HEAD" + asked).partition("\r\n\r\n")
    got, _, page = here.ask(b"GET" + asked).partition("\r\n\r\n")

    def without_date(lines: str) -> list[str]:
        return [line for line in lines.split("\r\n") if not line.startswith("date:")]

    assert without_date(head) == without_date(got)
    assert body == "" and (page or "location:" in got)
