"""Builds and runs the server of `prefloop watch`: only the pages that show runs, without people, store or model."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from prefloop.config import Annotate
from prefloop.errors import ConfigError
from prefloop.web.answers import plain, sentence, title, wants_page
from prefloop.web.listening import listen, options, run_one, shown, terminate
from prefloop.web.security.hosts import Hosts
from prefloop.web.security.request_checks import RequestChecks
from prefloop.web.templating import HERE, THEME_COOKIE, THEMES, local, make_templates, theme_of
from prefloop.web.watch import pages
from prefloop.web.watch.pages import Watching

PAGES = {
    "/runs": pages.list_page,
    "/runs/compare": pages.compare_page,
    "/runs/{place}/{run}": pages.run_page,
    "/runs/{place}/{run}/answers": pages.answers_page,
}


def create_app(watching: Watching, host: str = "127.0.0.1", names: Sequence[str] = ()) -> Starlette:
    """Return the application. host: what the server listens on.  names: further host names that it answers to."""
    hosts = Hosts.of(Annotate(hosts=tuple(names)), host, remedy="Start it with --name {name}.")
    show = partial(_show, make_templates())
    routes: list[Any] = [
        Route("/", lambda request: RedirectResponse("/runs", 303)),
        *(Route(path, partial(_page, page, watching, show), methods=["GET"]) for path, page in PAGES.items()),
        Route("/theme", _theme, methods=["POST"]),
        Mount("/static", StaticFiles(directory=HERE / "static"), name="static"),
    ]
    checks = Middleware(RequestChecks, on_error=_unforeseen, hosts=hosts)
    return Starlette(routes=routes, middleware=[checks], exception_handlers={HTTPException: partial(_refused, show)})


def _page(page: Callable[..., Response], watching: Watching, show: pages.Show, request: Request) -> Response:
    return page(request, watching, show)


def _show(templates: Any, request: Request, template: str, status: int = 200, **values: Any) -> Response:
    common = {"me": None, "guide_changed": False, "project": "runs", "theme": theme_of(request)}
    common["path"] = request.url.path
    return HTMLResponse(templates.get_template(template).render(common | values), status)


async def _theme(request: Request) -> Response:
    """Set the colour theme for browsers without scripts. app.js sets the same cookie."""
    async with request.form() as form:
        theme, back = str(form.get("theme")), str(form.get("back", "/"))
    answer = RedirectResponse(local(back), 303)
    if theme in THEMES:
        answer.set_cookie(THEME_COOKIE, theme, max_age=31536000, path="/", samesite="lax")
    return answer


def _refused(show: pages.Show, request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if not wants_page(request.url.path, request.headers.get("accept", "")):
        return plain(error.status_code, error.detail, as_page=False)
    return show(
        request, "error.html", error.status_code, title=title(error.status_code), message=sentence(error.detail)
    )


def _unforeseen(request: Request, error: Exception) -> Response:
    print(f"{request.method} {request.url.path} failed:\n{''.join(traceback.format_exception(error))}", file=sys.stderr)
    as_page = wants_page(request.url.path, request.headers.get("accept", ""))
    return plain(
        500, "something went wrong in the server; its operator finds the reason in its output", as_page=as_page
    )


def watch(
    roots: Sequence[Path], host: str, port: int, names: Sequence[str], ready: Callable[[str, list[str]], None]
) -> None:
    """Serve until Ctrl-C or SIGTERM. `ready` is called once with the address and warnings.

    port: 0 takes a free one

    Raises ConfigError for a folder that is not there, and for an address that is not available.
    """
    for root in roots:
        if not root.is_dir():
            raise ConfigError(f"there is no folder {root}. Name a project, a run, or a folder of copied runs.")
    app = create_app(Watching.at(roots), host, names)
    with closing(listen(host, port)) as listening:
        url = f"http://{shown(host)}:{listening.getsockname()[1]}"
        before = signal.signal(signal.SIGTERM, terminate)
        try:
            run_one(app, listening, options(Annotate()), lambda: ready(url, _warnings(host)))
        except KeyboardInterrupt:
            pass  # This is the usual way to stop a server.
        finally:
            signal.signal(signal.SIGTERM, before)


def _warnings(host: str) -> list[str]:
    try:
        outside = not ip_address(host).is_loopback
    except ValueError:
        outside = host != "localhost"
    if not outside:
        return []
    return [
        f"{host} can be reached from other machines, and nobody signs in here: whoever reaches it reads every "
        "prompt and answer. Leave --host out and use ssh -L, or let owners look in prefloop annotate: they sign in."
    ]
