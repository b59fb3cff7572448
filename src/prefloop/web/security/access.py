"""Access control: every route names exactly one of the gates below, or the server does not start.

    from prefloop.web.security.access import Annotator, GatedRoute, Reviewer, anyone

    router = APIRouter(route_class=GatedRoute)

    @router.get("/rank")
    def rank(request: Request, me: Annotator) -> Response: ...           # signed in, any role
    @router.get("/review/{item}")
    def review(request: Request, item: str, me: Reviewer) -> Response: ...
    @router.get("/about", dependencies=[Depends(anyone)])                # open to the world

Roles include each other: owner > reviewer > annotator. People are known by a session cookie. Programs are known at
/api/ by `Authorization: Bearer`; cookies do not count there, so another site cannot act through a browser. The store
decides what belongs to whom: `Queue` and `People` are called in the name of `me.id`.

A gate asks the store, and so does the endpoint behind it. FastAPI would use a thread for each of the two. `GatedRoute`
checks the gate in the endpoint's own thread, so that a request is handed over once.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from functools import wraps
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount

from prefloop.store import ApiToken, Person
from prefloop.web.services import services

Level = Literal["public", "annotator", "reviewer", "owner", "read", "write"]
SESSION_S = 14 * 24 * 3600.0  # The cookie lives so long; the store ends idle sessions earlier.


class NotSignedIn(Exception):
    """Raised where nobody is signed in. A page answers with the way to sign in, everything else with 401."""


class Forbidden(Exception):
    """Raised where the role does not allow the request. The answer is 403, and the audit log notes it."""

    def __init__(self, message: str, who: str | None) -> None:
        super().__init__(message)
        self.who = who


@dataclass(frozen=True)
class Gate:
    """A gate is a dependency of a route.

    `check` finds who asks, in a thread, and raises NotSignedIn or Forbidden.
    """

    level: Level
    check: Callable[[Request], Person | ApiToken | None]

    async def __call__(self, request: Request) -> Asker:
        """Return who asks, without asking the store. FastAPI calls this in the event loop."""
        return Asker(self, request)


@dataclass(frozen=True)
class Asker:
    """Holds the sender of a request before the gate has checked them."""

    gate: Gate
    request: Request

    def passed(self) -> Person | ApiToken | None:
        return self.gate.check(self.request)


class GatedRoute(APIRoute):
    """Runs a route's gate and endpoint one after the other in the same thread."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        gates = [inner.call for inner in self.dependant.dependencies if isinstance(inner.call, Gate)]
        self.dependant.call = _behind_gate(self.endpoint)
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError:
                for gate in gates:  # A person without access is not told what is wrong with the request.
                    await run_in_threadpool(gate.check, request)
                raise

        return handler


def _behind_gate(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(endpoint)
    def gated(**given: Any) -> Any:
        return endpoint(
            **{name: value.passed() if isinstance(value, Asker) else value for name, value in given.items()}
        )

    return gated


def _program(request: Request) -> ApiToken:
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    found = services(request).people.api_token(token.strip()) if kind.lower() == "bearer" and token else None
    if found is None:
        raise NotSignedIn
    return found


def _writing_program(request: Request) -> ApiToken:
    token = _program(request)
    if token.scope != "write":
        raise Forbidden('this needs an API token of scope "write"', token.created_by)
    return token


ORDER = ("annotator", "reviewer", "owner")
_WHO = {"annotator": "people of this project", "reviewer": "reviewers", "owner": "the owner"}

anyone = Gate("public", lambda _request: None)  # Everybody may sign in, and may see what is shown before that.
annotator = Gate("annotator", lambda request: _signed_in(request, "annotator"))  # Everybody who is signed in may pass.
reviewer = Gate("reviewer", lambda request: _signed_in(request, "reviewer"))  # A reviewer or the owner may pass.
owner = Gate("owner", lambda request: _signed_in(request, "owner"))
program_reads = Gate("read", _program)  # A program with an API token of any scope may pass.
program_writes = Gate("write", _writing_program)  # A program with an API token of scope "write" may pass.

Annotator = Annotated[Person, Depends(annotator)]
Reviewer = Annotated[Person, Depends(reviewer)]
Owner = Annotated[Person, Depends(owner)]
Reading = Annotated[ApiToken, Depends(program_reads)]
Writing = Annotated[ApiToken, Depends(program_writes)]


def current(request: Request) -> Person | None:
    """Return the person who is signed in, or None; they are looked up once a request."""
    if not hasattr(request.state, "person"):
        token = request.cookies.get(cookie_name(request))
        request.state.person = services(request).people.session(token) if token else None
    person: Person | None = request.state.person
    return person


def _signed_in(request: Request, least: Literal["annotator", "reviewer", "owner"]) -> Person:
    person = current(request)
    if person is None:
        raise NotSignedIn
    if ORDER.index(person.role) < ORDER.index(least):
        raise Forbidden(f"only {_WHO[least]} may do this", person.id)
    return person


# -- the session cookie ------------------------------------------------------------------------------------------------


def cookie_name(request: Request) -> str:
    """Return the name of this request's session cookie."""
    return session_cookie(services(request).root, request.url.scheme == "https")


def session_cookie(root: Path, tls: bool) -> str:
    """Return the name of the session cookie of a project.

    Over TLS the `__Host-` prefix binds it to this host. Cookies ignore ports, so the project distinguishes servers.
    """
    project = sha256(str(root).encode()).hexdigest()[:8]
    return f"{'__Host-' if tls else ''}prefloop-{project}"


def set_session(request: Request, response: Response, token: str) -> None:
    """Give a new session's token to the browser. Scripts and posts from other sites cannot use it."""
    response.set_cookie(
        cookie_name(request),
        token,
        max_age=int(SESSION_S),
        path="/",
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="lax",
    )


def clear_session(request: Request, response: Response) -> None:
    response.delete_cookie(
        cookie_name(request), path="/", secure=request.url.scheme == "https", httponly=True, samesite="lax"
    )


# -- every route is classified -----------------------------------------------------------------------------------------


def classify(app: FastAPI) -> dict[tuple[str, str], Level]:
    """Return {(method, path): who may call it}. Raises RuntimeError that names the first route without a gate."""
    found: dict[tuple[str, str], Level] = {}
    for route in app.routes:
        if isinstance(route, Mount) and route.name == "static":
            continue
        if not isinstance(route, GatedRoute):
            raise RuntimeError(f"{route!r} is not a classified route: add it with a router of prefloop.web")
        gates, methods = list(_gates(route.dependant)), sorted(route.methods or ())
        if len({gate.level for gate, _ in gates}) != 1:
            raise RuntimeError(
                f"{methods} {route.path} must name exactly one gate of prefloop.web.security.access, "
                f"has {sorted({gate.level for gate, _ in gates}) or 'none'}"
            )
        level = gates[0][0].level
        if level != "public" and not any(direct for _, direct in gates):
            raise RuntimeError(f"{methods} {route.path} must take who asks as a parameter, or nobody is asked")
        for method in methods:
            found[method, route.path] = level
    return found


def _gates(dependant: Dependant, depth: int = 0) -> Iterator[tuple[Gate, bool]]:
    """Yield the gates of a route, each with whether it is a parameter of the endpoint."""
    if isinstance(dependant.call, Gate):
        yield dependant.call, depth == 1 and dependant.name is not None
    for inner in dependant.dependencies:
        yield from _gates(inner, depth + 1)
