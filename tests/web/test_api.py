"""A program uses `/api/` as it is described, and a receiver gets webhooks."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from prefloop.errors import ConfigError
from prefloop.labels.answer import Answer
from prefloop.types import Ranking
from prefloop.web.webhooks import HEADER, WebhookNotifier, check_addresses, sign

from .conftest import Server, an_item


def record(name: str, count: int = 2) -> dict[str, Any]:
    return {
        "id": name,
        "prompt": f"Question {name}?",
        "completions": [{"id": f"c{i}", "text": f"Answer {i} to {name}."} for i in range(count)],
    }


@pytest.fixture
def program(server: Server) -> TestClient:
    return server.program("write", server.join("owner", "Olga"))


def rank(server: Server, person: str, times: int = 1) -> None:
    for number in range(times):
        shown = server.queue.next(person)
        assert shown is not None
        tiers = tuple((place,) for place in range(len(shown.texts)))
        server.queue.submit(person, shown.lease, f"00000000-0000-4000-8000-{number:012d}", Answer(tiers))


def test_items_are_added_once_and_are_work_for_people(server: Server, program: TestClient) -> None:
    first = program.post("/api/items", json=[record("a"), record("b", 3)])
    assert first.status_code == 200
    assert first.json() == {"items": 2, "completions": 5, "rankings": 0, "tasks": 2, "rejected": []}
    assert program.post("/api/items", json=[record("a"), record("b", 3)]).json()["items"] == 0
    assert server.queue.next(server.join("annotator", "Anna")) is not None
    assert program.post("/api/items", json=[]).json()["items"] == 0


def test_a_bad_record_is_named_and_the_others_are_kept(server: Server, program: TestClient) -> None:
    bad = [{"prompt": "no completions"}, record("fine"), {"id": "x", "prompt": "p", "completions": [{"id": "a"}]}]
    said = program.post("/api/items", json=bad).json()
    assert said["items"] == 1 and [row["record"] for row in said["rejected"]] == [1, 3]
    assert all(row["reason"] for row in said["rejected"])
    nothing = program.post("/api/items", json=bad[:1])
    assert nothing.status_code == 422 and "record 1" in nothing.json()["error"]
    other = record("fine")
    other["prefloop"] = {"item_id": server.store.latest_round("sample") or "same"}
    assert program.post("/api/items", json=[other]).status_code == 200
    other["completions"][0]["text"] = "Changed."
    assert program.post("/api/items", json=[other]).status_code == 422


@pytest.mark.parametrize(
    "body",
    ['{"a": 1}', "[1]", '["x"]', "[[]]", "null", "nonsense", '[{"prompt": 1e400}]', '[{"prompt": ' + "1" * 5000 + "}]"],
)
def test_a_body_that_is_no_list_of_records_is_refused(program: TestClient, body: str) -> None:
    answer = program.post("/api/items", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422) and answer.json()["error"]


def test_too_many_records_at_once_are_refused(program: TestClient) -> None:
    assert program.post("/api/items", json=[record("a")] * 1001).status_code == 422


def test_rankings_come_once_each_in_order_since_a_cursor(server: Server, program: TestClient) -> None:
    assert program.get("/api/rankings").json() == {"rankings": [], "cursor": 0, "more": False}
    program.post("/api/items", json=[record(f"i{n}") for n in range(5)])
    anna = server.join("annotator", "Anna")
    rank(server, anna, 3)
    first = program.get("/api/rankings", params={"limit": 2}).json()
    assert len(first["rankings"]) == 2 and first["more"]
    rest = program.get("/api/rankings", params={"after": first["cursor"]}).json()
    assert len(rest["rankings"]) == 1 and not rest["more"]
    assert program.get("/api/rankings", params={"after": rest["cursor"]}).json()["rankings"] == []
    numbers = [row["number"] for row in first["rankings"] + rest["rankings"]]
    assert numbers == sorted(set(numbers))
    row = rest["rankings"][0]
    assert row["annotator"] == anna and "Anna" not in json.dumps(row)
    assert sorted(key for tier in row["tiers"] for key in tier) == sorted(row["shown"])
    assert row["excluded"] is False
    server.people.exclude(None, anna, "spam")
    assert program.get("/api/rankings").json()["rankings"][0]["excluded"] is True


def test_a_cursor_stays_good_when_somebody_goes_with_their_rankings(server: Server, program: TestClient) -> None:
    program.post("/api/items", json=[record(f"i{n}") for n in range(4)])
    anna, bea = server.join("annotator", "Anna"), server.join("annotator", "Bea")
    rank(server, anna, 2)
    cursor = program.get("/api/rankings").json()["cursor"]
    server.people.delete(None, anna, keep_rankings=False)
    rank(server, bea, 1)
    (newer,) = program.get("/api/rankings", params={"after": cursor}).json()["rankings"]
    assert newer["annotator"] == bea and newer["number"] > cursor


def test_a_correction_comes_again(server: Server, program: TestClient) -> None:
    program.post("/api/items", json=[record("a")])
    anna = server.join("annotator", "Anna")
    shown = server.queue.next(anna)
    assert shown is not None
    server.queue.submit(anna, shown.lease, "00000000-0000-4000-8000-000000000001", Answer(((0,), (1,))))
    cursor = program.get("/api/rankings").json()["cursor"]
    server.queue.reopen(anna, shown.lease)
    server.queue.submit(anna, shown.lease, "00000000-0000-4000-8000-000000000002", Answer(((1,), (0,))))
    (newer,) = program.get("/api/rankings", params={"after": cursor}).json()["rankings"]
    assert newer["supersedes"] == program.get("/api/rankings").json()["rankings"][0]["id"]


def test_one_item_and_the_progress(server: Server, program: TestClient) -> None:
    program.post("/api/items", json=[record("a")])
    rank(server, server.join("annotator", "Anna"))
    item = program.get("/api/rankings").json()["rankings"][0]["item_id"]
    found = program.get(f"/api/items/{item}").json()
    assert found["id"] == "a" and len(found["rankings"]) == 1
    assert program.get("/api/items/none").status_code == 404
    assert program.get("/api/progress").json()["done"] == 1


@pytest.mark.parametrize("query", ["after=-1", "after=x", "limit=0", "limit=1001", "after=99999999999999999999"])
def test_a_cursor_out_of_range_is_refused(program: TestClient, query: str) -> None:
    assert program.get(f"/api/rankings?{query}").status_code == 422


@pytest.mark.parametrize("header", [None, "Bearer", "Bearer ", "Bearer x", "Basic x", "bearer \u00e9", "Bearer a b"])
def test_without_a_token_nothing(server: Server, header: str | None) -> None:
    client = TestClient(server.app, headers={"authorization": header.encode()} if header else {})
    answer = client.get("/api/rankings")
    assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
    client.close()


def test_a_revoked_token_is_worth_nothing(server: Server, program: TestClient) -> None:
    (token,) = server.people.api_tokens()
    assert program.get("/api/progress").status_code == 200
    assert server.browser("Olga").post(f"/settings/tokens/{token.id}/revoke").status_code == 303
    assert program.get("/api/progress").status_code == 401


def test_a_token_is_made_on_the_page_and_shown_once(server: Server) -> None:
    server.join("owner", "Olga")
    olga = server.browser("Olga")
    page = olga.post("/settings/tokens", data={"label": "<b>nightly</b>", "scope": "read"}).text
    token = page.split('id="token">')[1].split("<")[0]
    assert token not in olga.get("/settings").text and "&lt;b&gt;nightly" in page
    client = TestClient(server.app, headers={"authorization": f"Bearer {token}"})
    assert client.get("/api/progress").status_code == 200
    assert client.post("/api/items", json=[]).status_code == 403
    client.close()


def test_the_description_is_complete_and_needs_nothing_from_elsewhere(server: Server) -> None:
    schema = server.browser().get("/api/openapi.json").json()
    described = {(method.upper(), path) for path, methods in schema["paths"].items() for method in methods}
    ours = {key for key, level in server.app.state.routes.items() if level in ("read", "write")}
    assert described == ours and schema["components"]["securitySchemes"]
    page = server.browser().get("/api/docs").text
    assert all(path in page for _, path in ours) and "cdn" not in page


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["id", "prompt", "completions", "rankings", "system", "prefloop", "metadata"]),
            st.none() | st.integers() | st.text(max_size=5) | st.lists(st.text(max_size=3) | st.integers(), max_size=3),
        ),
        max_size=3,
    )
)
def test_whatever_a_program_sends_the_server_does_not_break(program: TestClient, records: list[dict[str, Any]]) -> None:
    body = json.dumps(records).encode()
    answer = program.post("/api/items", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (200, 422)


# -- webhooks ----------------------------------------------------------------------------------------------------------


@dataclass
class Receiver:
    """A small server that writes down what it gets."""

    address: str
    got: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    status: int = 200


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            known.got.append((self.path, dict(self.headers.items()), body))
            self.send_response(known.status)
            self.send_header("location", f"{known.address}/elsewhere")
            self.send_header("content-length", "0")
            self.end_headers()

        def do_GET(self) -> None:
            known.got.append(("followed a redirect", {}, b""))

        def log_message(self, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    known = Receiver(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield known
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_ring_says_how_far_the_rankings_go_and_is_signed(server: Server, receiver: Receiver) -> None:
    server.store.add([an_item("one")])
    bell = WebhookNotifier(server.store, "p", [f"{receiver.address}/hook"])
    assert bell.notify(lambda: 1000.0) == 1, "once at the start"
    assert bell.notify(lambda: 1001.0) == 0, "nothing new"
    server.store.add_rankings([Ranking("one", "a", "quality", (("one:c0",), ("one:c1",)))])
    assert bell.notify(lambda: 1002.0) == 1
    path, headers, body = receiver.got[-1]
    assert path == "/hook" and json.loads(body) == {"event": "rankings", "project": "p", "cursor": 1, "at": 1002}
    key = server.people.secret("webhook")
    expected = hmac.new(key.encode(), b"1002." + body, hashlib.sha256).hexdigest()
    assert headers[HEADER] == f"t=1002,v1={expected}" == sign(key, 1002, body)
    assert sign("other", 1002, body) != headers[HEADER] != sign(key, 1003, body)


def test_a_receiver_that_fails_is_asked_again_with_growing_waits(
    server: Server, receiver: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    receiver.status = 503
    bell = WebhookNotifier(server.store, "p", [f"{receiver.address}/secret-path"])
    tries = []
    for now in range(100):
        before = len(receiver.got)
        bell.notify(lambda at=now: float(at))  # type: ignore[misc]
        if len(receiver.got) > before:
            tries.append(now)
    assert tries == [0, 5, 15, 35, 75]
    receiver.status = 204
    assert bell.notify(lambda: 1000.0) == 1 and bell.notify(lambda: 1001.0) == 0
    assert "secret-path" not in capsys.readouterr().err


def test_a_redirect_is_not_followed(server: Server, receiver: Receiver) -> None:
    receiver.status = 302
    assert WebhookNotifier(server.store, "p", [receiver.address]).notify() == 0
    receiver.status = 307
    assert WebhookNotifier(server.store, "p", [receiver.address]).notify() == 0
    assert [path for path, _, _ in receiver.got] == ["", ""] or [path for path, _, _ in receiver.got] == ["/", "/"]


def test_the_thread_rings_by_itself_and_stops(server: Server, receiver: Receiver) -> None:
    bell = WebhookNotifier(server.store, "p", [receiver.address], every_s=0.01)
    bell.start()
    threading.Event().wait(0.3)
    bell.stop()
    assert len(receiver.got) == 1


@pytest.mark.parametrize("address", ["file:///etc/passwd", "ftp://x", "gopher://x", "example.org", "http://", ""])
def test_an_address_that_is_not_http_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="webhooks"):
        check_addresses([address])


def test_the_signing_key_is_for_owners_and_the_log_remembers(server: Server) -> None:
    server.join("owner", "Olga")
    olga = server.browser("Olga")
    key = server.people.secret("webhook")
    assert key not in olga.get("/settings").text and key in olga.post("/settings/webhook-key").text
    assert server.people.audit(1000)[-1].what == "webhook key shown"


def test_settings_are_shown_as_they_are(make_server: Callable[..., Server]) -> None:
    server = make_server(overlap=2, webhooks=["https://x.example/<script>"])
    server.join("owner", "Olga")
    page = server.browser("Olga").get("/settings").text
    assert "overlap" in page and "&lt;script&gt;" in page and "<script>" not in page
