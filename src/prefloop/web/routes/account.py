"""Holds the routes for signing in and out, for invitations, and for a person's own password and sessions."""

from __future__ import annotations

import time
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Form
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from prefloop.errors import ConflictError, DataError, ForbiddenError
from prefloop.store import Person
from prefloop.web.pages import page
from prefloop.web.security.access import Annotator, GatedRoute, anyone, clear_session, cookie_name, current, set_session
from prefloop.web.security.passwords import LONGEST, SHORTEST
from prefloop.web.services import services
from prefloop.web.templating import THEME_COOKIE, local
from prefloop.web.views import home as home_view

router = APIRouter(route_class=GatedRoute)
Text = Annotated[str, Form(max_length=1000)]
OPEN = [Depends(anyone)]


def _go(path: str) -> RedirectResponse:
    return RedirectResponse(local(path), 303)


def _address(request: Request) -> str:
    return request.client.host if request.client else "unknown"


@router.get("/", dependencies=OPEN)
def home(request: Request) -> Response:
    """Return the start page: what a person can do and, for owners and reviewers, the state of the project."""
    me = current(request)
    if me is None:
        return _go("/login")
    known = services(request)
    own = known.queue.progress(me.id)
    if me.role == "annotator":
        return page(request, "home.html", own=own)
    figures = home_view.look(known)
    return page(
        request,
        "home_team.html",
        own=own,
        figures=figures,
        work=home_view.work(known, figures),
        team=home_view.team(known, figures),
        waiting=home_view.waiting(known, figures),
        disk=home_view.disk(known, time.time()) if me.role == "owner" else None,
    )


@router.get("/login", dependencies=OPEN)
def login_page(request: Request, next: str = "/") -> Response:
    if current(request):
        return _go(next)
    return page(request, "login.html", next=local(next), name="", problem=None)


@router.post("/login", dependencies=OPEN)
def login(request: Request, name: Text, password: Text, next: Text = "/") -> Response:
    known = services(request)
    wait = known.throttle.attempt(name, _address(request))
    if wait > 0:
        problem = f"Too many attempts. Wait {int(wait) + 1} seconds, then try again."
        answer = page(request, "login.html", 429, next=local(next), name=name, problem=problem)
        answer.headers["retry-after"] = str(int(wait) + 1)
        return answer
    account = known.people.by_login(name)
    right = known.passwords.verify(account.password_hash if account else None, password)
    if account is None or not right or account.person.disabled:
        known.people.record(None, "login failed", account.person.id if account else "unknown name")
        problem = "This name and password do not belong together."
        return page(request, "login.html", 401, next=local(next), name=name, problem=problem)
    known.throttle.succeeded(name, _address(request))
    if known.passwords.outdated(account.password_hash):
        known.people.set_password(account.person.id, known.passwords.hash(password), keep_sessions=True)
    return _enter(request, account.person.id, next)


def _enter(request: Request, person: str, next: str) -> Response:
    """Start a session with a new token. A token that somebody planted before becomes worthless."""
    answer = _go(next)
    before = request.cookies.get(cookie_name(request))
    set_session(request, answer, services(request).people.open_session(person, replaces=before))
    return answer


@router.post("/logout", dependencies=OPEN)
def logout(request: Request) -> Response:
    if token := request.cookies.get(cookie_name(request)):
        services(request).people.close_session(token)
    answer = _go("/login")
    clear_session(request, answer)
    return answer


@router.post("/theme", dependencies=OPEN)
def theme(theme: Annotated[Literal["auto", "light", "dark"], Form()], back: Text = "/") -> Response:
    """Set the colour theme for browsers without scripts. app.js sets the same cookie."""
    answer = _go(back)
    answer.set_cookie(THEME_COOKIE, theme, max_age=31536000, path="/", samesite="lax")
    return answer


# -- invitations -------------------------------------------------------------------------------------------------------


@router.get("/join/{token}", dependencies=OPEN)
def join_page(request: Request, token: str) -> Response:
    """Return the page of an invitation. Looking at it does not use it up, since link previews do that."""
    return _join(request, token, 200, "", None)


def _join(request: Request, token: str, status: int, name: str, problem: str | None) -> Response:
    invite = services(request).people.peek(token)
    if invite is None:
        message = "This link has been used, withdrawn, or is too old. Ask for a new one."
        return page(request, "error.html", 404, title="This invitation does not work", message=message)
    rules = {"shortest": SHORTEST, "longest": LONGEST}
    return page(request, "invite.html", status, invite=invite, token=token, name=name, problem=problem, **rules)


@router.post("/join/{token}", dependencies=OPEN)
def join(request: Request, token: str, name: Text, password: Text, again: Text) -> Response:
    known = services(request)
    if known.people.peek(token) is None:
        return _join(request, token, 404, name, None)
    if password != again:
        return _join(request, token, 422, name, "The two passwords differ.")
    try:
        person = known.people.accept(token, name.strip(), known.passwords.hash(password, name.strip()))
    except (DataError, ConflictError) as error:
        return _join(request, token, 422, name, str(error))
    except ForbiddenError:  # Somebody else used it a moment ago.
        return _join(request, token, 404, name, None)
    return _enter(request, person.id, "/")


# -- a person's own account ---------------------------------------------------------------------------------------


@router.get("/account")
def account(request: Request, me: Annotator) -> Response:
    return _account(request, me, 200)


def _account(
    request: Request, me: Person, status: int, problem: str | None = None, done: str | None = None
) -> Response:
    others = services(request).people.browsers(me.id) - 1
    rules = {"shortest": SHORTEST, "longest": LONGEST}
    return page(request, "account.html", status, problem=problem, done=done, others=max(others, 0), **rules)


@router.post("/account/password")
def change_password(request: Request, me: Annotator, password: Text, new: Text, again: Text) -> Response:
    known = services(request)
    name = me.name or ""
    if (wait := known.throttle.attempt(name, _address(request))) > 0:
        return _account(request, me, 429, f"Too many attempts. Wait {int(wait) + 1} seconds, then try again.")
    held = known.people.by_login(name)
    if not known.passwords.verify(held.password_hash if held else None, password):
        return _account(request, me, 403, "The present password is another one.")
    known.throttle.succeeded(name, _address(request))
    if new != again:
        return _account(request, me, 422, "The two new passwords differ.")
    try:
        known.people.set_password(me.id, known.passwords.hash(new, name))
    except DataError as error:
        return _account(request, me, 422, str(error))
    answer = _account(request, me, 200, done="Your password is changed. All other browsers are signed out.")
    set_session(request, answer, known.people.open_session(me.id))
    return answer


@router.post("/account/sign-out")
def sign_out_everywhere(request: Request, me: Annotator) -> Response:
    services(request).people.revoke_all(me.id, me.id)
    answer = _go("/login")
    clear_session(request, answer)
    return answer
