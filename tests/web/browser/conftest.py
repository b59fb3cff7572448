"""Runs a real server on a real port, and a real Chromium that reports whatever it should not have done."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn

pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install 'prefloop[test]'")

PASSWORD = "correct horse battery"
SHOTS = os.environ.get("PREFLOOP_SHOTS")  # Pictures of the pages go to this folder, to be looked at.


@dataclass
class Site:
    """The server under test. `trouble` collects what no page may do: dialogs, violations, requests elsewhere."""

    server: Any
    url: str
    browser: Any
    trouble: list[str] = field(default_factory=list)
    contexts: list[Any] = field(default_factory=list)
    # The question "leave this page? answers are not sent yet" is expected, and answered with yes.
    leaving: bool = False

    def page(self, name: str | None = None, **context: Any) -> Any:
        """Return a page of a fresh browser profile; with a name, it is signed in as that person."""
        made = self.browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **context})
        made.set_default_timeout(10_000)
        self.contexts.append(made)
        page = made.new_page()
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.trouble.append(f"script error: {error}"))
        page.on("dialog", self._dialog)
        made.on("request", self._request)
        made.on("page", lambda opened: self.trouble.append("a new window") if opened != page else None)
        if name is not None:
            page.goto(f"{self.url}/login")
            page.fill("input[name=name]", name)
            page.fill("input[name=password]", PASSWORD)
            page.press("input[name=password]", "Enter")
            page.wait_for_url(lambda url: not url.endswith("/login"))
        return page

    def _console(self, message: Any) -> None:
        offline = "net::ERR" in message.text or "Failed to load resource" in message.text
        if message.type in ("error", "warning") and not offline:
            self.trouble.append(f"console: {message.text}")

    def _dialog(self, dialog: Any) -> None:
        if self.leaving and dialog.type == "beforeunload":
            dialog.accept()
            return
        self.trouble.append(f"dialog: {dialog.type} {dialog.message}")
        dialog.dismiss()

    def _request(self, request: Any) -> None:
        if not request.url.startswith((self.url + "/", "data:")):
            self.trouble.append(f"request to {request.url}")

    def rank(self, name: str, **context: Any) -> Any:
        """Return that person on the ranking screen, with an item shown."""
        page = self.page(name, **context)
        page.goto(f"{self.url}/rank")
        page.wait_for_selector("#task, #done")
        return page


def start(app: Any, options: dict[str, Any]) -> tuple[uvicorn.Server, threading.Thread, int]:
    """Serve an application on a free port, and return when it accepts connections."""
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    listening.close()
    options = {**options, "lifespan": "off", "port": port, "timeout_graceful_shutdown": 1}
    web = uvicorn.Server(uvicorn.Config(app, **options))
    thread = threading.Thread(target=web.run, daemon=True)
    thread.start()
    while not web.started:
        time.sleep(0.01)
    return web, thread, port


def stop(site: Site, web: uvicorn.Server, thread: threading.Thread) -> None:
    for context in site.contexts:
        context.close()
    web.should_exit = True
    thread.join(10)


@pytest.fixture
def make_watch(chromium: Any) -> Iterator[Callable[..., Site]]:
    """Yield `make_watch(*roots)`: the server of `prefloop watch` over these folders."""
    from prefloop.config import Annotate
    from prefloop.web.listening import options as server_options
    from prefloop.web.watch.app import create_app
    from prefloop.web.watch.pages import Watching

    running: list[tuple[Site, uvicorn.Server, threading.Thread]] = []

    def make(*roots: Path) -> Site:
        app = create_app(Watching.at(roots))
        web, thread, port = start(app, server_options(Annotate()))
        running.append((Site(app, f"http://127.0.0.1:{port}", chromium), web, thread))
        return running[-1][0]

    yield make
    for site, web, thread in running:
        stop(site, web, thread)
    for site, _, _ in running:
        assert site.trouble == []


@pytest.fixture
def make_site(make_server: Callable[..., Any], chromium: Any) -> Iterator[Callable[..., Site]]:
    """Yield `make_site(items, **annotate)`: a site with an owner "Olga", a reviewer "Rita", annotators "Ada" and
    "Ben".
    """
    from prefloop.web.listening import options as server_options

    running: list[tuple[Site, uvicorn.Server, threading.Thread]] = []

    def make(items: list[Any], **annotate: Any) -> Site:
        server = make_server(**{"gold_share": 0.0, "overlap_share": 0.0, **annotate})
        server.store.add(items)
        server.queue.fill()
        for role, name in (("owner", "Olga"), ("reviewer", "Rita"), ("annotator", "Ada"), ("annotator", "Ben")):
            server.join(role, name)
        options = server_options(server.app.state.services.config.annotate)
        web, thread, port = start(server.app, options)
        running.append((Site(server, f"http://127.0.0.1:{port}", chromium), web, thread))
        return running[-1][0]

    yield make
    for site, web, thread in running:
        stop(site, web, thread)
    for site, _, _ in running:
        assert site.trouble == []


@pytest.fixture
def shot(request: Any) -> Callable[[Any, str], None]:
    """Take a picture, where $PREFLOOP_SHOTS says that somebody wants to look at it."""

    def take(page: Any, name: str) -> None:
        if SHOTS:
            page.screenshot(path=str(Path(SHOTS) / f"{name}.png"))

    return take


@pytest.fixture
def said(make_site: Any) -> Callable[[Site], list[Any]]:
    """Return every effective ranking in the store of a site, oldest first."""

    def read(site: Site) -> list[Any]:
        found = [ranking for item in site.server.store.items() for ranking in item.rankings]
        return sorted(found, key=lambda ranking: ranking.created_at)

    return read
