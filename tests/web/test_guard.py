"""For every request these hold: headers, no posts from other sites, sizes, depth, throttles, equal times."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import pytest
from argon2 import PasswordHasher, extract_parameters
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import Response
from starlette.testclient import TestClient

from prefloop.errors import BusyError, DataError
from prefloop.store.people.rows import login_of
from prefloop.web.routes.api import EXAMPLE
from prefloop.web.security.access import GatedRoute, anyone
from prefloop.web.security.limits import MAX_DEPTH, json_problem, network_of
from prefloop.web.security.passwords import LONGEST, Passwords
from prefloop.web.security.request_checks import API_BYTES, PAGE_BYTES
from prefloop.web.security.throttle import Throttle

from .conftest import CHEAP, PASSWORD, Server

# -- headers -----------------------------------------------------------------------------------------------------------


def test_every_answer_has_the_headers_also_errors_and_files(server: Server) -> None:
    server.join("owner", "Olga")
    anybody, olga = server.browser(), server.browser("Olga")
    answers = [anybody.get(p) for p in ("/", "/login", "/join/x", "/nothing", "/static/app.css", "/static/no", "/rank")]
    answers += [olga.get(p) for p in ("/people", "/audit", "/settings", "/account", "/api/docs")]
    answers += [anybody.post("/login", headers={"sec-fetch-site": "cross-site"}), anybody.delete("/login")]
    for answer in answers:
        policy = dict(part.strip().partition(" ")[::2] for part in answer.headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'" and policy["script-src"] == policy["style-src"] == "'self'"
        assert policy["frame-ancestors"] == policy["base-uri"] == policy["object-src"] == "'none'"
        assert policy["form-action"] == "'self'" and "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cross-origin-opener-policy"] == "same-origin"
        expected = "no-cache" if answer.request.url.path.startswith("/static/") else "no-store"
        assert answer.headers["cache-control"] == expected, answer.request.url


def test_an_error_page_says_in_a_sentence_what_is_wrong_and_where_to_go(server: Server) -> None:
    server.join("owner", "Olga")
    server.join("annotator", "Ada")
    for path, status, title, said in (
        ("/nowhere", 404, "Nothing here", "There is nothing at this address."),
        ("/people", 403, "No access", "Only reviewers may do this."),
        ("/audit?before=x", 403, "No access", "Only the owner may do this."),
    ):
        answer = server.browser("Ada").get(path)
        assert answer.status_code == status
        assert f"<h1>{title}</h1>" in answer.text and f"<p>{said}</p>" in answer.text
        assert 'href="/">Back to the start</a>' in answer.text
    message = server.browser("Ada").get("/people", headers={"accept": "application/json"}).json()["error"]
    assert message == "only reviewers may do this", "scripts and programs get the message as it is"


def test_no_page_has_anything_inline_or_from_elsewhere(server: Server) -> None:
    server.join("owner", "Olga")
    olga = server.browser("Olga")
    pages = [olga.get(path).text for (method, path) in server.app.state.routes if method == "GET" and "{" not in path]
    for text in [*pages, server.browser().get("/login").text]:
        lowered = text.lower()
        for inline in (
            "<style",
            " style=",
            " onclick=",
            " onload=",
            '="javascript:',
            "<script>",
            'src="http',
            "@import",
        ):
            assert inline not in lowered


def test_names_are_escaped_on_every_page(make_server: Callable[..., Server]) -> None:
    """The project's name is `A <b>project</b>`; a person's may be worse."""
    server = make_server()
    server.join("owner", "<img src=x onerror=alert(1)>")
    browser = server.browser("<img src=x onerror=alert(1)>")
    for path in ("/people", "/audit", "/settings", "/account"):
        text = browser.get(path).text
        assert "<b>" not in text and "<img" not in text and "&lt;img" in text


# -- posts from elsewhere ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, False),
        ({"sec-fetch-site": "same-origin"}, True),
        ({"sec-fetch-site": "cross-site"}, False),
        ({"sec-fetch-site": "same-site"}, False),
        ({"sec-fetch-site": "none"}, False),
        ({"origin": "http://testserver"}, True),
        ({"origin": "http://testserver:81"}, False),
        ({"origin": "http://evil.example"}, False),
        ({"origin": "null"}, False),
        ({"origin": "http://testserver.evil.example"}, False),
        ({"origin": "http://testserver", "sec-fetch-site": "cross-site"}, False),
        ({"authorization": "Bearer x"}, False),
        ({"referer": "http://testserver/"}, False),
    ],
)
def test_only_our_own_pages_may_write(server: Server, headers: dict[str, str], allowed: bool) -> None:
    server.join("owner", "Olga")
    olga = server.browser("Olga")
    del olga.headers["sec-fetch-site"]
    answer = olga.post("/settings/tokens", data={"label": "x", "scope": "write"}, headers=headers)
    assert answer.status_code == (200 if allowed else 403)
    assert len(server.people.api_tokens()) == int(allowed)


def test_a_method_in_a_header_or_field_overrides_nothing(server: Server) -> None:
    server.join("owner", "Olga")
    olga = server.browser("Olga")
    answer = olga.get("/settings/tokens?_method=POST", headers={"x-http-method-override": "POST"})
    assert answer.status_code == 405 and not server.people.api_tokens()


# -- sizes and depth ---------------------------------------------------------------------------------------------------


def test_a_large_body_is_refused_before_it_is_read(server: Server) -> None:
    browser = server.browser()
    assert browser.post("/login", content=b"x", headers={"content-length": "100000000"}).status_code == 413
    assert browser.post("/login", content=b"name=" + b"x" * PAGE_BYTES).status_code == 413

    for length in ("-1", "1e9", "9" * 30, "²"):
        assert browser.post("/login", headers={"content-length": length.encode()}).status_code in (400, 413)


def test_a_body_without_a_length_is_read_no_further_than_the_limit(server: Server) -> None:
    reads, sent = 0, []

    async def receive() -> dict[str, object]:
        nonlocal reads
        reads += 1
        assert reads < 50
        return {"type": "http.request", "body": b"x" * 100_000, "more_body": True}

    async def send(message: object) -> None:
        sent.append(message)

    headers = [(b"host", b"h"), (b"origin", b"http://h"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/login", "headers": headers, "query_string": b""}
    scope |= {"scheme": "http", "server": ("h", 80)}
    with ThreadPoolExecutor(1) as thread:  # This thread may have a loop already, of the browser tests.
        thread.submit(lambda: asyncio.run(server.app(scope, receive, send))).result()  # type: ignore[arg-type]
    assert reads == PAGE_BYTES // 100_000 + 1 and sent[0]["status"] == 413  # type: ignore[index]


def test_only_programs_with_a_token_may_send_much(server: Server) -> None:
    program = server.program("write", server.join("owner", "Olga"))
    body = b"[" + b" " * (PAGE_BYTES + 10) + b"]"
    json_type = {"content-type": "application/json"}
    assert program.post("/api/items", content=body, headers=json_type).status_code == 200
    assert program.post("/api/items", content=b" " * (API_BYTES + 1), headers=json_type).status_code == 413
    assert server.browser().post("/api/items", content=body, headers=json_type).status_code == 413


JSON_NAMES = ("application/json", "application/JSON", "Application/Json; charset=utf-8", "application/vnd.api+json")


@pytest.mark.parametrize("name", [*JSON_NAMES, "text/plain", "application/octet-stream", "nonsense", "", None])
def test_json_has_its_limits_whatever_it_calls_itself(server: Server, name: str | None) -> None:
    program = server.program("write", server.join("owner", "Olga"))
    headers = {} if name is None else {"content-type": name}
    answer = program.post("/api/items", content=b'[{"id": "a", "id": "b"}]', headers=headers)
    assert answer.status_code == 400 and "twice" in answer.json()["error"]
    fine = program.post("/api/items", content=json.dumps([EXAMPLE]), headers=headers)
    assert fine.status_code == (200 if name in JSON_NAMES else 422)


@pytest.mark.parametrize("charset", ["unicode_escape", "utf-16", "punycode", '"raw-unicode-escape"'])
def test_a_form_in_another_encoding_is_refused(server: Server, charset: str) -> None:
    part = b'--b\r\nContent-Disposition: form-data; name="name"\r\n\r\n\\ud800\r\n--b--\r\n'
    headers = {"content-type": f"multipart/form-data; boundary=b; charset={charset}"}
    assert server.browser().post("/login", content=part, headers=headers).status_code == 400


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100 + b"]" * 100,
        b'{"a":' * 100 + b"1" + b"}" * 100,
        b"[" * 900_000,
        b'["x", NaN]',
        b"[Infinity]",
        b"[-Infinity]",
        "[1]".encode("utf-16"),
        '["\u2200",[[1]]]'.encode("utf-16-le"),
        b"[1e400]",
        b"[-1e999]",
        b"[" + b"1" * 101 + b"]",
        b"[0." + b"1" * 9000 + b"]",
        b'{"a": 1, "b": 2, "a": 3}',
        b'[{"x": {"a": 1, "\\u0061": 2}}]',
        b'["\\ud800"]',
        b'{"\\udfff": 1}',
        b'["\xed\xa0\x80"]',
        b'["\xff"]',
    ],
)
def test_json_too_deep_or_of_no_meaning_is_refused(server: Server, body: bytes) -> None:
    program = server.program("write", server.join("owner", "Olga"))
    answer = program.post("/api/items", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400 and answer.json()["error"]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=30,
    )
)
def test_ordinary_json_passes_whatever_its_texts_hold(value: object) -> None:
    for ascii_only in (True, False):
        body = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "replace")
        assert json_problem(body) is None


def test_brackets_in_texts_are_no_depth_and_the_limit_is_exact() -> None:
    assert json_problem(json.dumps(['"[[[' * 200, "\\" * 9, "NaN"]).encode()) is None
    assert json_problem(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH) is None
    assert json_problem(b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1))
    assert json_problem(b'"' + b"[" * 100)  # This text never ends.
    assert json_problem(b'["\\ud83d\\ude00", "\\\\ud800", 18446744073709551616, 1e308]') is None


def test_a_bug_tells_the_asker_nothing_and_the_operator_where(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    from fastapi import APIRouter, Depends

    router = APIRouter(route_class=GatedRoute)

    def broken(request: Request) -> Response:
        try:
            raise ValueError("secret-parameter")
        except ValueError as error:
            raise RuntimeError("of the inside") from error

    router.add_api_route("/broken/{token}", broken, dependencies=[Depends(anyone)])
    server.app.router.routes.append(router.routes[0])
    answer = server.browser().get("/broken/secret-token")
    assert answer.status_code == 500 and "inside" not in answer.text
    assert answer.headers["content-security-policy"]
    err = capsys.readouterr().err
    assert "GET /broken/{token} failed" in err and "of the inside" in err
    assert "secret" not in err.replace('raise ValueError("secret-parameter")', "")


# -- passwords and throttles -------------------------------------------------------------------------------------------


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_guesses_at_an_account_get_slower_but_its_owner_is_never_locked_out() -> None:
    clock = Clock()
    throttle = Throttle(clock)
    waits = []
    for number in range(40):
        wait = throttle.attempt("anna", f"10.0.{number}.1")
        waits.append(wait)
        clock.now += wait
        if wait:
            assert throttle.attempt("anna", f"10.1.{number}.1") == 0
    assert waits[:5] == [0] * 5 and waits[5] == 1.0 and waits[6] == 2.0
    assert waits == sorted(waits) and max(waits) == 60.0
    assert throttle.attempt("bert", "10.9.9.9") == 0


def test_guesses_from_one_address_get_slower_whatever_the_names() -> None:
    clock = Clock()
    throttle = Throttle(clock)
    assert [throttle.attempt(f"n{i}", "2001:db8::1") for i in range(20)] == [0] * 20
    assert throttle.attempt("n21", "2001:db8::2") > 0, "a neighbour in the same /64"
    assert throttle.attempt("n21", "2001:db8:1::2") == 0
    clock.now += 4000
    assert throttle.attempt("n22", "2001:db8::1") == 0


SPELLINGS = ("Anna Meyer", "ANNA MEYER", " anna  meyer ", "\uff21\uff4e\uff4e\uff41 Meyer", "anna\u3000meyer")


@pytest.mark.parametrize("name", [*SPELLINGS, "Ren\u00e9 \ufb01n", "rene\u0301 fin", "STRASSE", "stra\u00dfe"])
def test_every_spelling_that_opens_an_account_counts_as_that_account(server: Server, name: str) -> None:
    known = server.join(
        "annotator", {"A": "Anna Meyer", "R": "Ren\u00e9 fin", "S": "Stra\u00dfe"}[login_of(name)[0].upper()]
    )
    account = server.people.by_login(name)
    assert account is not None and account.person.id == known
    throttle = Throttle(Clock())
    for number in range(5):
        assert throttle.attempt(account.person.name or "", f"10.0.0.{number}") == 0
    assert throttle.attempt(name, "10.0.1.1") > 0


@pytest.mark.parametrize("name", ["an\u200bna", "anna\u00ad", "\u202eanna", "anna\0", "a" * 65, "\ud800"])
def test_spellings_that_open_no_account_are_counted_too(server: Server, name: str) -> None:
    server.join("annotator", "anna")
    assert server.people.by_login(name) is None
    throttle = Throttle(Clock())
    assert [throttle.attempt(name, f"10.0.0.{n}") > 0 for n in range(6)] == [False] * 5 + [True]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:0DB8:0:0:9::2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("unknown", "unknown", True),
    ],
)
def test_whose_address_it_is(one: str, other: str, same: bool) -> None:
    assert (network_of(one) == network_of(other)) is same


def test_success_frees_the_account_but_not_the_address() -> None:
    clock = Clock()
    throttle = Throttle(clock)
    for number in range(19):
        assert throttle.attempt(f"n{number}", "a") == 0
    for _ in range(5):
        assert throttle.attempt("mine", "a") == 0
        throttle.succeeded("MINE ", "a")
    throttle.attempt("other", "a")
    assert throttle.attempt("other", "a") > 0


def test_many_guesses_at_once_get_no_head_start() -> None:
    throttle, passed = Throttle(Clock()), []
    threads = [threading.Thread(target=lambda: passed.append(throttle.attempt("anna", "a") == 0)) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(passed) == 5


def test_an_unknown_name_is_as_much_work_as_a_known_one_from_the_first() -> None:
    """Work is counted, not seconds: the same number of hashes is made with the same parameters."""
    work: list[str] = []

    class Counted(PasswordHasher):
        def hash(self, password: str | bytes, *, salt: bytes | None = None) -> str:
            work.append("hash")
            return super().hash(password, salt=salt)

        def verify(self, hash: str | bytes, password: str | bytes) -> Literal[True]:
            work.append(repr(extract_parameters(str(hash))))
            return super().verify(hash, password)

    hasher = Counted(time_cost=2, memory_cost=64, parallelism=1, hash_len=24, salt_len=12)
    known = Passwords(hasher).hash(PASSWORD)
    work.clear()
    done = []
    for hashed in (None, known):
        assert not Passwords(hasher).verify(hashed, "a wrong password")
        done.append(tuple(work))
        work.clear()
    assert done[0] == done[1] and len(done[0]) == 1
    assert not Passwords(hasher).verify(None, "nobody has this password")


def test_a_flood_of_logins_is_answered_busy_and_memory_stays_bounded() -> None:
    entered, release, running, most = threading.Event(), threading.Event(), 0, 0
    lock = threading.Lock()

    class Slow(PasswordHasher):
        def hash(self, password: str | bytes, *, salt: bytes | None = None) -> str:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            entered.set()
            release.wait(5)
            with lock:
                running -= 1
            return "x"

    passwords, refused = Passwords(Slow(), at_once=2, waiting=3), []

    def one() -> None:
        try:
            passwords.hash(PASSWORD)
        except BusyError as error:
            refused.append(error)

    threads = [threading.Thread(target=one) for _ in range(20)]
    for thread in threads:
        thread.start()
    entered.wait(5)
    deadline = time.monotonic() + 5
    while len(refused) < 15 and time.monotonic() < deadline:
        time.sleep(0.01)
    release.set()
    for thread in threads:
        thread.join()
    assert most == 2 and len(refused) == 15


@pytest.mark.parametrize("bad", ["short", "x" * (LONGEST + 1), "aaaaaaaaaaaaaaaa", "Anna Meyer Anna"])
def test_poor_passwords_are_refused(bad: str) -> None:
    with pytest.raises(DataError):
        Passwords(CHEAP).hash(bad, "anna meyer anna")


def test_a_password_is_the_same_however_its_accents_are_typed() -> None:
    passwords = Passwords(CHEAP)
    assert passwords.verify(passwords.hash("caf\u00e9 au lait noir"), "cafe\u0301 au lait noir")
    assert not passwords.verify(passwords.hash("caf\u00e9 au lait noir"), "cafe au lait noir")
    assert not passwords.verify("not a hash", PASSWORD)


def test_a_websocket_is_turned_away(server: Server) -> None:
    from starlette.websockets import WebSocketDisconnect

    with pytest.raises(WebSocketDisconnect), TestClient(server.app).websocket_connect("/rank"):
        pass
