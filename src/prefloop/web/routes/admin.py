"""Holds the routes for people, invitations and the audit log. `People` checks again who may do what."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Form
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from prefloop.errors import DataError
from prefloop.store import Person, Role
from prefloop.store.log import newest
from prefloop.web.pages import Cursor, page
from prefloop.web.security.access import GatedRoute, Owner, Reviewer
from prefloop.web.services import services

router = APIRouter(route_class=GatedRoute)
Text = Annotated[str, Form(max_length=1000)]
AUDIT_ROWS = 200


def _groups(text: str) -> tuple[str, ...]:
    """Return names separated by commas, as a list."""
    found = dict.fromkeys(name.strip() for name in text.split(",") if name.strip())
    if len(found) > 20 or any(len(name) > 50 for name in found):
        raise DataError("at most 20 groups, with names of at most 50 characters")
    return tuple(found)


def _to(person: str) -> RedirectResponse:
    return RedirectResponse(f"/people/{person}", 303)


# -- the team ----------------------------------------------------------------------------------------------------------


@router.get("/people")
def people(request: Request, me: Reviewer) -> Response:
    return _people(request)


def _people(request: Request, link: str | None = None) -> Response:
    known = services(request).people
    return page(request, "people.html", people=known.list(), invites=known.invites(), link=link)


@router.post("/people/invite")
def invite(request: Request, me: Reviewer, role: Annotated[Role, Form()], groups: Text = "") -> Response:
    """Return the page with the invitation link. It is shown once, and only its hash is stored."""
    token = services(request).people.invite(me.id, role, _groups(groups))
    return _people(request, link=f"{services(request).hosts.address(request)}/join/{token}")


@router.post("/people/invites/{invite}/withdraw")
def withdraw(request: Request, me: Reviewer, invite: str) -> Response:
    services(request).people.withdraw(me.id, invite)
    return RedirectResponse("/people", 303)


@router.get("/people/{person}")
def person_page(request: Request, me: Reviewer, person: str) -> Response:
    return _person(request, person)


def _person(request: Request, person: str, status: int = 200, **more: str) -> Response:
    known = services(request).people
    extra = {"password": None, "problem": None, **more}
    return page(request, "person.html", status, person=known.person(person), models=known.models_of(person), **extra)


@router.post("/people/{person}/role")
def set_role(request: Request, me: Owner, person: str, role: Annotated[Role, Form()]) -> Response:
    services(request).people.set_role(me.id, person, role)
    return _to(person)


@router.post("/people/{person}/groups")
def set_groups(request: Request, me: Reviewer, person: str, groups: Text = "") -> Response:
    services(request).people.set_groups(me.id, person, _groups(groups))
    return _to(person)


@router.post("/people/{person}/limit")
def set_limit(request: Request, me: Reviewer, person: str, limit: Text = "") -> Response:
    if limit and not (limit.isascii() and limit.isdigit() and 0 < int(limit) <= 10**9):
        raise DataError("a limit is a number of items, or empty for the project's own")
    services(request).people.set_limit(me.id, person, int(limit) if limit else None)
    return _to(person)


@router.post("/people/{person}/exclude")
def exclude(request: Request, me: Reviewer, person: str, reason: Text) -> Response:
    services(request).people.exclude(me.id, person, reason.strip()[:500] or "no reason given")
    return _to(person)


@router.post("/people/{person}/include")
def include(request: Request, me: Reviewer, person: str) -> Response:
    services(request).people.include(me.id, person)
    return _to(person)


@router.post("/people/{person}/disable")
def disable(request: Request, me: Owner, person: str) -> Response:
    services(request).people.disable(me.id, person)
    return _to(person)


@router.post("/people/{person}/enable")
def enable(request: Request, me: Owner, person: str) -> Response:
    services(request).people.disable(me.id, person, disabled=False)
    return _to(person)


@router.post("/people/{person}/sign-out")
def sign_out(request: Request, me: Owner, person: str) -> Response:
    services(request).people.revoke_all(me.id, person)
    return _to(person)


@router.post("/people/{person}/password")
def reset_password(request: Request, me: Owner, person: str) -> Response:
    """Give a person a random password, shown once, and end their sessions."""
    known = services(request)
    if known.people.person(person).name is None:
        raise DataError("this person has been deleted")
    password = secrets.token_urlsafe(12)
    known.people.set_password(person, known.passwords.hash(password))
    known.people.record(me.id, "password reset", person)
    return _person(request, person, password=password)


@router.post("/people/{person}/delete")
def delete(
    request: Request, me: Owner, person: str, rankings: Annotated[str, Form(pattern="^(keep|remove)$")], name: Text
) -> Response:
    """Delete a person. The name must be typed again, because this cannot be undone."""
    known = services(request).people
    found: Person = known.person(person)
    if name.strip() != found.name:
        return _person(request, person, 422, problem="The name you typed is not this person's. Nothing was deleted.")
    models = known.delete(me.id, person, keep_rankings=rankings == "keep")
    return page(request, "deleted.html", kept=rankings == "keep", models=models)


# -- the log -----------------------------------------------------------------------------------------------------------


@router.get("/audit")
def audit(request: Request, me: Owner, before: Cursor = 0) -> Response:
    """Return a page of the log, newest first; `before` is the cursor, 0 for the first page."""
    known = services(request)
    rows = newest(known.store, AUDIT_ROWS, before or None)
    names = {person.id: person.name or "(deleted)" for person in known.people.list()}
    objects = {row.number: _object(row.object, names) for row in rows}
    starts = known.queue.starts({item for item, _ in objects.values()})
    more = rows[-1].number if len(rows) == AUDIT_ROWS else None
    return page(request, "audit.html", rows=rows, names=names, objects=objects, starts=starts, more=more, before=before)


def _object(text: str, names: Mapping[str, str]) -> tuple[str, str | None]:
    """Return (a text that may be an item, a person or None): the log says "ITEM PERSON" of what was given back."""
    head, _, last = text.rpartition(" ")
    return (head, last) if head and last in names else (text, None)
