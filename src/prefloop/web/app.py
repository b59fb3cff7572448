"""Builds the server, which makes an ASGI application from a project."""

from __future__ import annotations

import math
import sys
import time
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

from anyio import to_thread
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles

import prefloop
from prefloop.config import Config
from prefloop.errors import (
    AnswerError,
    BusyError,
    ConflictError,
    DataError,
    ForbiddenError,
    LeaseError,
    PrefloopError,
    UnavailableError,
)
from prefloop.store import People, Queue, Store
from prefloop.store.connections.database import CONNECTIONS
from prefloop.web.answers import AWAY, plain, sentence, title, wants_page
from prefloop.web.pages import page
from prefloop.web.routes import account as routes_account
from prefloop.web.routes import admin as routes_admin
from prefloop.web.routes import api as routes_api
from prefloop.web.routes import rank as routes_rank
from prefloop.web.routes import review as routes_review
from prefloop.web.routes import runs as routes_runs
from prefloop.web.routes import settings as routes_settings
from prefloop.web.security.access import Forbidden, NotSignedIn, classify
from prefloop.web.security.hosts import Hosts
from prefloop.web.security.request_checks import RequestChecks
from prefloop.web.services import Services, services
from prefloop.web.templating import HERE, make_templates
from prefloop.web.watch.pages import Watching

# FastAPI can report requests to OpenTelemetry, even where only an environment variable asks for it. Here nothing does.
NO_TELEMETRY: Any = dict.fromkeys(("tracing", "metrics", "logs", "operation_spans", "auto_configure"), False)
ROUTERS = (routes_rank, routes_account, routes_review, routes_admin, routes_settings, routes_runs, routes_api)


def create_app(root: Path, config: Config, store: Store, bound: str = "") -> FastAPI:
    """Return the application over an open store. The caller closes the store.

    bound: the host that the server listens on

    Raises RuntimeError if a route does not say who may call it.
    """
    app = FastAPI(
        title="prefloop",
        version=prefloop.__version__,
        lifespan=_as_many_threads_as_connections,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        telemetry=NO_TELEMETRY,
    )
    people = People(store)
    queue = Queue(store, config.annotate, seed=config.project.seed)
    hosts = Hosts.of(config.annotate, bound)
    app.state.services = Services(root, config, store, people, queue, make_templates(), hosts)
    app.state.told_at = -math.inf
    app.state.watching = Watching.at([root])
    app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")
    for routes in ROUTERS:
        # They are added directly, because `include_router` may hide them from `classify`.
        app.router.routes.extend(routes.router.routes)
    app.add_exception_handler(NotSignedIn, _not_signed_in)
    app.add_exception_handler(Forbidden, _forbidden)
    app.add_exception_handler(PrefloopError, _problem)
    app.add_exception_handler(RequestValidationError, _not_valid)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_middleware(RequestChecks, on_error=_unforeseen, hosts=hosts)
    app.state.routes = classify(app)
    return app


@asynccontextmanager
async def _as_many_threads_as_connections(_app: FastAPI) -> AsyncIterator[None]:
    """Limit server threads to the number of connections. More threads would only wait for each other."""
    to_thread.current_default_thread_limiter().total_tokens = CONNECTIONS
    yield


# -- every way a request can end ---------------------------------------------------------------------------------------


def _wants_page(request: Request) -> bool:
    return wants_page(request.url.path, request.headers.get("accept", ""))


def _say(request: Request, status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    """Return the response to an error: a page for people, JSON for scripts, with the same words."""
    if status >= 500 or not _wants_page(request):
        return plain(status, message, as_page=_wants_page(request), headers=headers)
    answer = page(request, "error.html", status, title=title(status), message=sentence(message))
    answer.headers.update(headers or {})
    return answer


def _unforeseen(request: Request, error: Exception) -> Response:
    """Return the response to an error that no handler below has handled, or that a handler itself raised."""
    return _away(request, error) if isinstance(error, AWAY_ERRORS) else _bug(request, error)


def _not_signed_in(request: Request, error: Exception) -> Response:
    if request.url.path.startswith("/api/"):
        message = "send an API token: Authorization: Bearer TOKEN"
        return JSONResponse({"error": message}, 401, {"www-authenticate": "Bearer"})
    if request.method == "GET" and _wants_page(request):
        wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(f"/login?next={quote(wanted, safe='/')}", 303)
    return _say(request, 401, "you are not signed in, or your session has ended: sign in again")


def _forbidden(request: Request, error: Exception) -> Response:
    assert isinstance(error, Forbidden)
    route = request.scope.get("route")
    path = getattr(route, "path", request.url.path)
    services(request).people.record(error.who, "refused", f"{request.method} {path}")
    return _say(request, 403, str(error))


def _problem(request: Request, error: Exception) -> Response:
    """Return the response to an error that people can put right, with the error's own message."""
    if isinstance(error, AWAY_ERRORS):
        return _away(request, error)
    for kind, status in STATUS:
        if isinstance(error, kind):
            return _say(request, status, str(error))
    return _bug(request, error)  # The store is damaged or a setting is wrong; the caller need not know which.


STATUS: tuple[tuple[type[PrefloopError], int], ...] = (
    (ForbiddenError, 403),
    (LeaseError, 404),  # "not yours" and "does not exist" must look the same.
    (ConflictError, 409),
    (AnswerError, 422),
    (DataError, 422),
)
AWAY_ERRORS = (UnavailableError, BusyError)
TELL_EVERY_S = 10.0


def _away(request: Request, error: Exception) -> Response:
    """Return the response 503 while the store is away.

    The operator sees the reason now and then, not for every request.
    """
    state, now = request.app.state, time.monotonic()
    if now - state.told_at >= TELL_EVERY_S:
        state.told_at = now
        print(f"answered 503: {error}", file=sys.stderr)
    return plain(503, AWAY, as_page=_wants_page(request))


def _not_valid(request: Request, error: Exception) -> Response:
    """Return the response to an invalid request. It says where and why, without the input, which may be a password."""
    assert isinstance(error, RequestValidationError)
    found = [f"{'.'.join(map(str, e['loc'][1:])) or e['loc'][0]}: {e['msg']}" for e in error.errors()[:5]]
    return _say(request, 422, "; ".join(found))


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = error.detail if error.detail != HTTPStatus(error.status_code).phrase else _PLAIN.get(error.status_code)
    return _say(request, error.status_code, detail or error.detail, dict(error.headers or {}))


_PLAIN = {404: "there is nothing at this address", 405: "this address does not take such a request"}


def _bug(request: Request, error: Exception) -> Response:
    """Return the response to a bug. It tells the caller nothing.

    The traceback goes to standard error, without the request and without chained errors, which may quote it.
    """
    lines = traceback.format_exception(error, chain=False)
    route = getattr(request.scope.get("route"), "path", "?")
    print(f"{request.method} {route} failed:\n{''.join(lines)}", file=sys.stderr)
    return _say(request, 500, "something went wrong in the server; its operator finds the reason in its output")
