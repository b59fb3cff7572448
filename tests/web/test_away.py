"""The store is away for a while: moved, locked, on a full disk. Every answer is whole, and what was said stays true."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from prefloop.config import Config, Project
from prefloop.store import Store
from prefloop.web.answers import HEADERS
from prefloop.web.app import create_app
from prefloop.web.security.passwords import Passwords

from .conftest import CHEAP, PASSWORD, Server, an_item

PATIENCE_S = 0.2


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Yield a server that waits for its store no longer than a moment."""
    config = Config(project=Project(store="sqlite:///store.db"))
    with Store.open(config.project.store, tmp_path, patience_s=PATIENCE_S) as store:
        app = create_app(tmp_path, config, store)
        services = app.state.services = replace(app.state.services, passwords=Passwords(CHEAP))
        made = Server(app, store, services.people, services.queue)
        store.add([an_item("one")])
        made.queue.fill()
        made.join("owner", "Olga")
        yield made
        for client in made.browsers:
            client.close()


@contextmanager
def moved(path: Path) -> Iterator[None]:
    elsewhere = path.with_name("elsewhere.db")
    path.rename(elsewhere)
    yield
    elsewhere.rename(path)


@contextmanager
def replaced(path: Path) -> Iterator[None]:
    with moved(path):
        path.write_bytes(b"")
        yield
        path.unlink()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lock the store as a program does that knows nothing of ours."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def whole(answer: object, status: int) -> bool:
    kept = {name: answer.headers[name] for name in HEADERS}  # type: ignore[attr-defined]
    assert kept == HEADERS and answer.headers["cache-control"] in ("no-store", "no-cache")  # type: ignore[attr-defined]
    return answer.status_code == status  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("away", [moved, replaced])
def test_while_the_file_is_away_every_route_says_so_and_afterwards_all_is_as_before(
    server: Server, tmp_path: Path, away: object, capsys: pytest.CaptureFixture[str]
) -> None:
    browser, nobody = server.browser("Olga"), server.browser()
    program = server.program("write", server.people.list()[0].id)
    before = browser.get("/people").text
    with away(tmp_path / "store.db"):  # type: ignore[operator]
        for (method, path), level in server.app.state.routes.items():
            if path in ("/theme", "/api/openapi.json"):
                continue  # These need no store.
            client = program if level in ("read", "write") else browser
            answer = client.request(method, re.sub(r"\{[^}]*\}", "x", path))
            assert whole(answer, 503), (path, answer.text)
            assert int(answer.headers["retry-after"]) > 0 and "cannot reach its database" in answer.text
            assert str(tmp_path) not in answer.text
            kind = "application/json" if path.startswith("/api/") else "text/html; charset=utf-8"
            assert answer.headers["content-type"] == kind, path
        assert whole(nobody.get("/login"), 200) and whole(nobody.get("/static/app.css"), 200)
        assert whole(nobody.get("/no/such/page"), 404)
    said = capsys.readouterr().err
    assert said.count("answered 503") == 1 and "Traceback" not in said and "store.db" in said
    assert browser.get("/people").text == before


def test_while_another_program_writes_people_read_and_are_told_to_send_again(server: Server, tmp_path: Path) -> None:
    browser = server.browser("Olga")
    lease = server.queue.next(server.people.list()[0].id)
    assert lease is not None
    body = {"uuid": "00000000-0000-4000-8000-000000000001", "answer": {"tiers": [[0], [1], [2]]}}
    send = f"/rank/{lease.lease}/submit"
    with locked(tmp_path / "store.db"):
        assert whole(browser.post(send, json=body, headers={"accept": "application/json"}), 503)
        assert whole(browser.get("/history"), 200)
        login = server.browser().post("/login", data={"name": "Olga", "password": PASSWORD})
        assert whole(login, 503) and "set-cookie" not in login.headers
    assert whole(browser.post(send, json=body), 200) and whole(browser.post(send, json=body), 200)
    assert server.store.counts()["rankings"] == 1


def test_a_full_disk_refuses_what_it_cannot_keep_and_goes_on_when_there_is_room(server: Server) -> None:
    """SQLite's own limit of pages gives the same error as a full disk."""
    browser = server.browser("Olga")

    def pages(most: int) -> None:
        with server.store.database.write() as connection:
            connection.exec_driver_sql(f"PRAGMA max_page_count = {most}")

    invite = {"role": "annotator", "groups": ",".join(f"group {n} of a long name" for n in range(20))}
    pages(1)  # There are as many as before.
    acknowledged = 0
    while whole(answer := browser.post("/people/invite", data=invite), 200):
        acknowledged += 1
    assert whole(answer, 503) and acknowledged < 1000
    assert whole(browser.get("/people"), 200) and len(server.people.invites()) == acknowledged
    pages(10**6)
    assert whole(browser.post("/people/invite", data=invite), 200)
    assert server.store.check() == []
