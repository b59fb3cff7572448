"""Whatever stands in an address, a form or a body of any route, it is never a fault of the server."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from hypothesis import HealthCheck, Phase, given, settings
from starlette.testclient import TestClient

from .conftest import Server, an_item

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed: pip install 'prefloop[test]'")

LEAVE = {"/logout", "/account/sign-out", "/account/password"}  # They would end the session that the others need.
ODD = (
    *(str(number) for number in (2**31, 2**63 - 1, 2**63, -(2**63) - 1, 2**64, -1, 10**30)),
    *(
        "1e400",
        "-1e999",
        "1.5",
        "NaN",
        "Infinity",
        "0x10",
        "\u0663",
        "\u00b2",
        "+1",
        " 1",
        "1_000",
        "true",
        "null",
        "[]",
    ),
    *("", "%00", "a%00b", "%ED%A0%80", "%FF", "%0D%0AX:1", "..%2F..", "%F0%9F%98%80", "9" * 1000, "x" * 5000),
)
FAST = settings(
    max_examples=3,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture
def olga(make_server: Callable[..., Server]) -> tuple[Server, TestClient]:
    """Return an owner with work to do, whose client turns a fault of the server into an answer."""
    server = make_server(attributes=["clear"])
    server.store.add([an_item(name) for name in ("one", "two")])
    server.queue.fill()
    server.join("owner", "Olga")
    browser = server.browser("Olga")
    browser.headers["accept"] = "application/json"
    return server, browser


def all_routes(server: Server) -> list[APIRoute]:
    found = [route for route in server.app.routes if isinstance(route, APIRoute)]
    assert len(found) > 40
    return found


def refused(answer: Any) -> bool:
    return 400 <= answer.status_code < 500


def test_no_address_of_a_page_makes_the_server_fail(olga: tuple[Server, TestClient]) -> None:
    """Every parameter in a path, and every one in a query, gets every odd value."""
    server, browser = olga
    program = server.program("write", server.people.list()[0].id)
    tried = 0
    for route in all_routes(server):
        client = program if route.path.startswith("/api/") else browser
        names = [parameter.alias for parameter in route.dependant.query_params]
        for odd in ODD:
            if "{" in route.path:
                path = re.sub(r"\{[^}]*\}", odd, route.path)
                answer = client.request(next(iter(route.methods)), path)
                assert answer.status_code < 500, (route.path, odd, answer.text)
                tried += 1
            if names and "GET" in route.methods and "{" not in route.path:
                for name in names:
                    answer = client.get(f"{route.path}?{name}={odd}")
                    assert answer.status_code < 500, (route.path, name, odd, answer.text)
                    tried += 1
    assert tried > 400


@pytest.mark.parametrize(("path", "name"), [("/audit", "before"), ("/review", "after"), ("/api/rankings", "after")])
def test_a_cursor_that_no_database_knows_is_422(olga: tuple[Server, TestClient], path: str, name: str) -> None:
    server, browser = olga
    client = server.program("read", server.people.list()[0].id) if path.startswith("/api/") else browser
    for number in (2**63, 2**64, 10**30, -1, "1e400", "NaN", "9" * 5000, "\u0663x"):
        assert client.get(path, params={name: str(number)}).status_code == 422, number
    assert client.get(path, params={name: 2**63 - 1}).status_code == 200


@pytest.mark.parametrize(
    "number", ["2147483648", "9223372036854775808", "1" + "0" * 400, "1e9", "-1", "\u0663", "\u00b2"]
)
def test_a_limit_that_is_no_number_of_items_is_422(olga: tuple[Server, TestClient], number: str) -> None:
    server, browser = olga
    anna = server.join("annotator", "Anna")
    assert browser.post(f"/people/{anna}/limit", data={"limit": number}).status_code == 422
    assert server.people.person(anna).limit is None


NUMBERS = ("9223372036854775808", "-9223372036854775809", "18446744073709551616", "1e308", "-1e308", "5e-324", "1e19")


def test_odd_numbers_in_an_answer_are_refused_or_kept_but_no_fault(olga: tuple[Server, TestClient]) -> None:
    for number in (*NUMBERS, "1.5", "-0.0", "-1", "true", "null", '"1"', "[]"):
        _answer_with(number, *olga)


def _answer_with(number: str, server: Server, browser: TestClient) -> None:
    lease = server.queue.next(server.people.list()[0].id)
    assert lease is not None
    answers = [
        '{"tiers": [[0], [1], [%s]]}',
        '{"tiers": [[0], [1], [2]], "duration_s": %s}',
        '{"tiers": [[0], [1], [2]], "ratings": {"clear": [%s, 1, 1]}}',
        '{"tiers": [[0], [1], [2]], "ratings": {"clear": {"0": %s}}}',
        '{"tiers": %s}',
        '{"tiers": [[0], [1], [2]], "unacceptable": [%s]}',
        '{"tiers": [[0], [1], [2]], "flags": [%s], "comment": %s}',
    ]
    send = {"content-type": "application/json"}
    for place, text in enumerate(answers):
        body = text.replace("%s", number)
        sent = f'{{"uuid": "00000000-0000-4000-8000-{place:012d}", "answer": {body}}}'
        answer = browser.post(f"/rank/{lease.lease}/submit", content=sent, headers=send)
        assert answer.status_code < 500, (body, answer.text)
    for body in (f'{{"state": {{"a": {number}}}}}', f'{{"state": {number}}}'):
        assert browser.post(f"/rank/{lease.lease}/draft", content=body, headers=send).status_code < 500
    assert browser.post("/rank/next", content=f'{{"after": {number}}}', headers=send).status_code < 500


def test_odd_numbers_in_an_item_are_named_or_kept_but_no_fault(olga: tuple[Server, TestClient]) -> None:
    server, _ = olga
    program = server.program("write", server.people.list()[0].id)
    for number in NUMBERS:
        _add_with(number, program)


def _add_with(number: str, program: TestClient) -> None:
    item = {"prompt": "Why?", "completions": [{"id": "a", "text": "x"}, {"id": "b", "text": "y"}]}
    ranking = {"annotator": "p", "criterion": "quality", "tiers": [["a"], ["b"]]}
    for body in (
        item | {"metadata": {"n": 123}},
        item | {"rankings": [ranking | {"duration_s": 123}]},
        item | {"rankings": [ranking | {"ratings": {"clear": {"a": 123}}}]},
        item
        | {"completions": [{"id": "a", "text": "x", "seed": 123, "metadata": {"n": 123}}, {"id": "b", "text": 123}]},
        item | {"id": 123},
        item | {"round": 123},
    ):
        sent = json.dumps([body]).replace("123", number)
        answer = program.post("/api/items", content=sent, headers={"content-type": "application/json"})
        assert answer.status_code < 500, (sent, answer.text)
        assert program.get("/api/rankings").status_code == 200


def fuzz(operation: Any, client: TestClient, examples: int, look: Callable[[Any, Any], None]) -> int:
    """Return how many requests were made up for an operation of OpenAPI; `look` sees each with its answer."""
    tried = 0

    @settings(FAST, max_examples=examples)
    @given(case=operation.as_strategy())
    def ask(case: Any) -> None:
        nonlocal tried
        tried += 1
        made = case.as_transport_kwargs(base_url="http://testserver")
        sent = {key: value for key, value in made.items() if key not in ("headers", "cookies")}
        if not all(isinstance(file, str | bytes | tuple) for _, file in sent.get("files") or ()):
            return  # It is a file that is a number, which no client can send.
        look(sent, client.request(**sent))

    ask()
    return tried


def test_what_the_description_of_every_route_allows_is_no_fault(olga: tuple[Server, TestClient]) -> None:
    """Schemathesis makes up requests from OpenAPI, ours and that of the pages."""
    server, browser = olga
    program = server.program("write", server.people.list()[0].id)
    schema = schemathesis.openapi.from_dict(get_openapi(title="all", version="1", routes=all_routes(server)))

    def no_fault(sent: Any, answer: Any) -> None:
        assert answer.status_code < 500, (sent, answer.text)

    tried = 0
    for operation in (found.ok() for found in schema.get_all_operations()):
        if operation.path not in LEAVE:
            tried += fuzz(operation, program if operation.path.startswith("/api/") else browser, 3, no_fault)
    assert tried > 60


def test_the_api_keeps_to_its_own_description(olga: tuple[Server, TestClient]) -> None:
    server, _ = olga
    program = server.program("write", server.people.list()[0].id)
    schema = schemathesis.openapi.from_dict(program.get("/api/openapi.json").json())

    for operation in (found.ok() for found in schema.get_all_operations()):

        def as_described(sent: Any, answer: Any, operation: Any = operation) -> None:
            assert str(answer.status_code) in operation.definition.raw["responses"], (sent, answer.text)
            operation.validate_response(answer)

        fuzz(operation, program, 12, as_described)
