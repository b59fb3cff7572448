"""Runs a server in memory over a real SQLite store, and browsers and programs that talk to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the server is not installed: pip install 'prefloop[web]'")

from argon2 import PasswordHasher
from fastapi import FastAPI
from starlette.testclient import TestClient

from prefloop.config import Annotate, Config, Project
from prefloop.store import People, Queue, Role, Store
from prefloop.types import Completion, Item, Prompt
from prefloop.web.app import create_app
from prefloop.web.security.passwords import Passwords

PASSWORD = "correct horse battery"
CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)  # Tests log in often.


def an_item(name: str, count: int = 3) -> Item:
    """Return texts that say to nobody which model wrote them."""
    answers = tuple(Completion(f"{name}:c{i}", f"Answer {i} to {name}.", model=f"secret-{i}") for i in range(count))
    return Item(name, Prompt(f"Question {name}?"), answers)


@dataclass
class Server:
    """Holds an application and its parts. `browser(role)` is signed in as a fresh person of that role."""

    app: FastAPI
    store: Store
    people: People
    queue: Queue
    browsers: list[TestClient] = field(default_factory=list)

    def join(self, role: Role, name: str) -> str:
        """Return the id of a new person, whose password is PASSWORD."""
        if role == "owner":
            token = self.people.owner_link() or self.people.invite(None, "owner")
        else:
            token = self.people.invite(None, role)
        return self.people.accept(token, name, CHEAP.hash(PASSWORD)).id

    def browser(self, name: str | None = None) -> TestClient:
        """Return a client that sends what a browser sends with a post from the same site.

        With a name, it is signed in.
        """
        client = TestClient(self.app, follow_redirects=False, headers={"accept": "text/html"})
        client.headers["sec-fetch-site"] = "same-origin"
        self.browsers.append(client)
        if name is not None:
            answer = client.post("/login", data={"name": name, "password": PASSWORD})
            assert answer.status_code == 303, answer.text
        return client

    def program(self, scope: str, owner: str) -> TestClient:
        token = self.people.create_token(owner, "a program", scope)  # type: ignore[arg-type]
        client = TestClient(self.app, follow_redirects=False, headers={"authorization": f"Bearer {token}"})
        self.browsers.append(client)
        return client


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    made: list[Server] = []

    def make(**annotate: object) -> Server:
        project = Project(name="A <b>project</b>", store="sqlite:///store.db")
        config = Config(project=project, annotate=Annotate.model_validate(annotate))
        store = Store.open(project.store, tmp_path)
        app = create_app(tmp_path, config, store)
        services = replace(app.state.services, passwords=Passwords(CHEAP))
        app.state.services = services
        made.append(Server(app, store, services.people, services.queue))
        return made[-1]

    yield make
    for server in made:
        for client in server.browsers:
            client.close()
        server.store.close()


@pytest.fixture
def server(make_server: Callable[..., Server]) -> Server:
    return make_server()
