"""Every route of the application is called by every kind of caller with things that belong to somebody else.

The tests are made from the route table, so that a new route is tested without a line here, and one that does not say
who may call it keeps the server from starting.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest
from fastapi import APIRouter, Depends, FastAPI
from starlette.requests import Request
from starlette.testclient import TestClient

from prefloop.web.security.access import Annotator, GatedRoute, anyone, classify, owner

from .conftest import Server, an_item
from .watched import align_run

ROLES = ("nobody", "annotator", "reviewer", "owner", "reading", "writing")
MAY = {
    "public": set(ROLES),
    "annotator": {"annotator", "reviewer", "owner"},
    "reviewer": {"reviewer", "owner"},
    "owner": {"owner"},
    "read": {"reading", "writing"},
    "write": {"writing"},
}
ANSWER = {"tiers": [[0], [1], [2]]}


@dataclass
class World:
    """Holds one caller of each kind, and somebody else (`B`) with a lease, an answer and an invitation to meddle
    with.
    """

    server: Server
    callers: dict[str, TestClient]
    foreign: dict[str, str]
    path: Path

    def dump(self) -> dict[str, list[tuple[object, ...]]]:
        """Return everything in the store but signs of life, and the audit log, which grows when somebody is refused."""
        with sqlite3.connect(self.path) as connection:
            tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            kept = [name for name in tables if name not in ("audit", "sqlite_sequence")]
            found = {name: connection.execute(f"SELECT * FROM {name}").fetchall() for name in kept}
            found["sessions"] = connection.execute("SELECT id, kind, person, label, scope FROM sessions").fetchall()
            return found


@pytest.fixture
def world(server: Server, tmp_path: Path) -> World:
    server.store.add([an_item(name) for name in ("one", "two", "three")])
    server.queue.fill()
    mine = server.join("owner", "Olga")
    server.join("reviewer", "Rita")
    server.join("annotator", "Anna")
    other = server.join("annotator", "Bert")
    lease = server.queue.next(other)
    assert lease is not None
    server.people.invite(mine, "annotator")
    server.people.create_token(mine, "foreign", "read")
    callers = {
        "nobody": server.browser(),
        "annotator": server.browser("Anna"),
        "reviewer": server.browser("Rita"),
        "owner": server.browser("Olga"),
        "reading": server.program("read", mine),
        "writing": server.program("write", mine),
    }
    align_run(tmp_path)
    shown = server.app.state.watching.folders.runs()[0]
    foreign = {
        "lease": lease.lease,
        "person": other,
        "invite": server.people.invites()[0].id,
        "token": server.people.api_tokens()[0].id,
        "item": "one",
        "key": "limit",
        "place": shown.place.key,
        "run": shown.path.name,
    }
    return World(server, callers, foreign, tmp_path / "store.db")


def routes(server: Server) -> list[tuple[str, str, str]]:
    found = [(method, path, level) for (method, path), level in server.app.state.routes.items()]
    assert len(found) > 30
    return found


def call(client: TestClient, method: str, path: str, foreign: dict[str, str]) -> tuple[int, str]:
    """Send a body that would do something, if it were let through. Return the status, and where it sends to."""
    address = path.format_map(foreign)
    form = {"role": "owner", "groups": "x", "limit": "7", "reason": "because", "rankings": "remove", "name": "Bert"}
    form |= {"text": "Be unfair.", "editing": "x", "act": "save", "overlap": "9"}
    form |= {"label": "x", "scope": "write", "password": "a new long password", "new": "x" * 12, "again": "x" * 12}
    json = {"uuid": str(uuid4()), "answer": ANSWER, "reason": "unclear", "state": {"a": 1}, "item": "one"}
    if method == "GET":
        answer = client.get(address)
    elif path == "/api/items":
        answer = client.post(address, json=[{"id": "n", "prompt": "p", "completions": ["x"]}])
    elif path.startswith(("/rank", "/review")):
        wanted = _fields(client, path)
        answer = client.post(address, json={key: value for key, value in json.items() if key in wanted})
        if answer.status_code == 422:
            answer = client.post(address, data=form)
    else:
        answer = client.post(address, data=form)
    return answer.status_code, answer.headers.get("location", "")


def _fields(client: TestClient, path: str) -> set[str]:
    """Return the fields of the form, because some bodies forbid fields they do not know."""
    last = path.rsplit("/", 1)[-1]
    return {"submit": {"uuid", "answer"}, "skip": {"uuid", "reason"}, "draft": {"state"}}.get(last, set())


@pytest.mark.parametrize("role", ROLES)
def test_a_caller_without_the_right_is_refused_and_changes_nothing(world: World, role: str) -> None:
    before = world.dump()
    for method, path, level in routes(world.server):
        if role in MAY[level]:
            continue
        status, to = call(world.callers[role], method, path, world.foreign)
        assert status in (401, 403) or (status == 303 and to.startswith("/login?next=")), (method, path, status, to)
        assert world.dump() == before, (method, path)


@pytest.mark.parametrize("role", ROLES)
def test_a_caller_with_the_right_reads_every_page(world: World, role: str) -> None:
    """The refusals above would be worth nothing if everything were refused."""
    for method, path, level in routes(world.server):
        if role in MAY[level] and method == "GET" and "{lease}" not in path and path != "/join/{token}":
            status, to = call(world.callers[role], method, path, world.foreign)
            assert status == 200 or (status == 303 and path in ("/", "/login")), (path, status, to)


def test_nobody_touches_the_lease_of_another_person(world: World) -> None:
    """Not even the owner may: answers are given in one's own name. A foreign lease looks like one that never was."""
    before = world.dump()
    checked = 0
    for method, path, _ in routes(world.server):
        if "{lease}" not in path:
            continue
        for role in ("annotator", "reviewer", "owner"):
            checked += 1
            assert call(world.callers[role], method, path, world.foreign)[0] == 404, (role, path)
            made_up = world.foreign | {"lease": "l" * 22}
            assert call(world.callers[role], method, path, made_up)[0] == 404, (role, path)
    assert checked >= 12
    assert world.dump() == before


def test_reviewers_manage_annotators_only(world: World) -> None:
    owner_id = next(p.id for p in world.server.people.list() if p.role == "owner")
    rita = world.callers["reviewer"]
    before = world.dump()
    for act in ("groups", "limit", "exclude", "include"):
        answer = rita.post(f"/people/{owner_id}/{act}", data={"groups": "x", "limit": "3", "reason": "r"})
        assert answer.status_code == 403, act
    for role in ("reviewer", "owner"):
        assert rita.post("/people/invite", data={"role": role}).status_code == 403
    assert world.dump() == before
    assert rita.post("/people/invite", data={"role": "annotator"}).status_code == 200


def test_a_refusal_leaves_a_line_in_the_audit_log(world: World) -> None:
    world.callers["annotator"].get("/audit")
    anna = next(p.id for p in world.server.people.list() if p.name == "Anna")
    last = world.server.people.audit(1000)[-1]
    assert (last.who, last.what, last.object) == (anna, "refused", "GET /audit")


def test_a_session_cookie_opens_no_api_and_a_token_no_page(world: World) -> None:
    assert world.callers["owner"].get("/api/rankings").status_code == 401
    assert world.callers["writing"].get("/people").status_code in (303, 401)


@pytest.mark.parametrize("gates", [[], [Depends(anyone), Depends(owner)], [Depends(owner)]])
def test_a_route_that_does_not_say_who_may_call_it_keeps_the_server_from_starting(gates: list[object]) -> None:
    app, router = FastAPI(openapi_url=None, docs_url=None, redoc_url=None), APIRouter(route_class=GatedRoute)
    router.add_api_route("/fine", lambda: None, dependencies=[Depends(anyone)])
    app.router.routes.extend(router.routes)
    assert classify(app) == {("GET", "/fine"): "public"}
    router.add_api_route("/secret", lambda: None, dependencies=gates)  # type: ignore[arg-type]
    app.router.routes.append(router.routes[-1])
    with pytest.raises(RuntimeError, match="/secret"):
        classify(app)


def test_a_route_added_behind_the_routers_is_refused_too(make_server: Callable[..., Server]) -> None:
    app = make_server().app
    app.get("/hidden")(lambda: None)
    with pytest.raises(RuntimeError):
        classify(app)


def test_a_route_of_another_kind_keeps_the_server_from_starting_although_it_names_a_gate(
    make_server: Callable[..., Server],
) -> None:
    """FastAPI's own route would call the endpoint with somebody who has not passed."""
    app, router = make_server().app, APIRouter()
    router.add_api_route("/plain", lambda: None, dependencies=[Depends(anyone)])
    app.router.routes.extend(router.routes)
    with pytest.raises(RuntimeError, match="/plain"):
        classify(app)


def test_who_may_not_ask_is_not_told_what_is_wrong_with_the_question(world: World) -> None:
    wrong = {"uuid": 7}
    answers = {role: world.callers[role].post("/rank/x/submit", json=wrong).status_code for role in ROLES}
    assert answers == {"nobody": 401, "annotator": 422, "reviewer": 422, "owner": 422, "reading": 403, "writing": 403}
    assert world.callers["reading"].post("/api/items", json={}).status_code == 403


def test_roles_include_each_other(world: World) -> None:
    def who(request: Request, me: Annotator) -> str:
        return me.role

    router = APIRouter(route_class=GatedRoute)
    router.add_api_route("/who", who)
    world.server.app.router.routes.append(router.routes[0])
    said = {role: world.callers[role].get("/who").status_code for role in ROLES}
    assert said == {"nobody": 303, "annotator": 200, "reviewer": 200, "owner": 200, "reading": 401, "writing": 401}


OPEN = {
    ("GET", "/"),
    ("GET", "/login"),
    ("POST", "/login"),
    ("POST", "/logout"),
    ("POST", "/theme"),
    ("GET", "/join/{token}"),
    ("POST", "/join/{token}"),
    ("GET", "/api/openapi.json"),
    ("GET", "/api/docs"),
}
OWNERS = {
    ("POST", "/people/{person}/role"),
    ("POST", "/people/{person}/disable"),
    ("POST", "/people/{person}/enable"),
    ("POST", "/people/{person}/sign-out"),
    ("POST", "/people/{person}/password"),
    ("POST", "/people/{person}/delete"),
    ("GET", "/audit"),
    ("GET", "/settings"),
    ("POST", "/settings/rules"),
    ("POST", "/settings/rules/{key}/reset"),
    ("GET", "/settings/guidelines"),
    ("POST", "/settings/guidelines"),
    ("POST", "/settings/guidelines/file"),
    ("GET", "/settings/items"),
    ("POST", "/settings/items"),
    ("POST", "/settings/tokens"),
    ("POST", "/settings/tokens/{token}/revoke"),
    ("POST", "/settings/webhook-key"),
}


def test_what_is_open_and_what_is_the_owners_is_written_down_twice(server: Server) -> None:
    """The other tests believe what a route says of itself; these lines do not."""
    table = server.app.state.routes
    assert {key for key, level in table.items() if level == "public"} == OPEN
    assert {key for key, level in table.items() if level == "owner"} >= OWNERS
    assert {level for (_, path), level in table.items() if path.startswith(("/review", "/people"))} <= {
        "reviewer",
        "owner",
    }
    assert {level for (_, path), level in table.items() if path.startswith("/api/")} <= {"read", "write", "public"}
    assert table["POST", "/api/items"] == "write"
