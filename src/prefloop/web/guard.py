"""Who may do what: every route names exactly one of the gates below, or the server does not start.

    from prefloop.web.guard import Annotator, Reviewer, anyone

    @router.get("/rank")
    def rank(request: Request, me: Annotator) -> Response: ...           # signed in, any role
    @router.get("/review/{item}")
    def review(request: Request, item: str, me: Reviewer) -> Response: ...
    @router.get("/about", dependencies=[Depends(anyone)])                # open to the world

Roles include each other: owner > reviewer > annotator. People come with a session cookie; programs, at /api/ only, with
`Authorization: Bearer`, where no cookie counts, so that no other site can act through a browser. What belongs to whom
is the store's to decide: `Queue` and `People` are asked in the name of `me.id`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount

from prefloop.store import ApiToken, Person
from prefloop.web.services import services

Level = Literal["public", "annotator", "reviewer", "owner", "read", "write"]
SESSION_S = 14 * 24 * 3600.0  # the cookie's age; the store ends sessions earlier where they idle


class NotSignedIn(Exception):
    """Nobody is known to be asking: a page answers with the way to sign in, everything else with 401."""


class Forbidden(Exception):
    """Somebody is asking for what their role does not include: 403, and a line in the audit log."""

    def __init__(self, message: str, who: str | None) -> None:
        super().__init__(message)
        self.who = who


def anyone() -> None:
    """Open to the world: signing in, and what is shown before."""


def annotator(request: Request) -> Person:
    """Whoever is signed in."""
    return _signed_in(request, "annotator")


def reviewer(request: Request) -> Person:
    """A reviewer or the owner."""
    return _signed_in(request, "reviewer")


def owner(request: Request) -> Person:
    """An owner."""
    return _signed_in(request, "owner")


def program_reads(request: Request) -> ApiToken:
    """A program with an API token of any scope."""
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    found = services(request).people.api_token(token.strip()) if kind.lower() == "bearer" and token else None
    if found is None:
        raise NotSignedIn
    return found


def program_writes(request: Request) -> ApiToken:
    """A program with an API token of scope "write"."""
    token = program_reads(request)
    if token.scope != "write":
        raise Forbidden('this needs an API token of scope "write"', token.created_by)
    return token


LEVELS: dict[Callable[..., Any], Level] = {
    anyone: "public",
    annotator: "annotator",
    reviewer: "reviewer",
    owner: "owner",
    program_reads: "read",
    program_writes: "write",
}
ORDER = ("annotator", "reviewer", "owner")
_WHO = {"annotator": "people of this project", "reviewer": "reviewers", "owner": "the owner"}

Annotator = Annotated[Person, Depends(annotator)]
Reviewer = Annotated[Person, Depends(reviewer)]
Owner = Annotated[Person, Depends(owner)]
Reading = Annotated[ApiToken, Depends(program_reads)]
Writing = Annotated[ApiToken, Depends(program_writes)]


def current(request: Request) -> Person | None:
    """Who is signed in, for pages that greet them; looked up once a request."""
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
    """What this request's session cookie is called."""
    return session_cookie(services(request).root, request.url.scheme == "https")


def session_cookie(root: Path, tls: bool) -> str:
    """Over TLS the `__Host-` prefix binds it to this host. Cookies know no ports: the project tells servers apart."""
    project = sha256(str(root).encode()).hexdigest()[:8]
    return f"{'__Host-' if tls else ''}prefloop-{project}"


def set_session(request: Request, response: Response, token: str) -> None:
    """Hand a new session's token to the browser, out of reach of scripts and of posts from other sites."""
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
    """{(method, path): who may call it}. Raises RuntimeError naming the first route that does not say so."""
    found: dict[tuple[str, str], Level] = {}
    for route in app.routes:
        if isinstance(route, Mount) and route.name == "static":
            continue
        if not isinstance(route, APIRoute):
            raise RuntimeError(f"{route!r} is not a classified route: add it with a router of prefloop.web")
        levels, methods = set(_levels(route.dependant)), sorted(route.methods or ())
        if len(levels) != 1:
            raise RuntimeError(
                f"{methods} {route.path} must name exactly one gate of prefloop.web.guard, "
                f"has {sorted(levels) or 'none'}"
            )
        for method in methods:
            found[method, route.path] = next(iter(levels))
    return found


def _levels(dependant: Dependant) -> Iterator[Level]:
    if dependant.call in LEVELS:
        yield LEVELS[dependant.call]
    for inner in dependant.dependencies:
        yield from _levels(inner)
