"""Holds the owner's settings: how people are asked, the guidelines, files of items, API tokens, the webhook key.

Changes count at once in every process. `Rules` says how they combine with prefloop.toml.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Annotated, Any, Literal, get_args

from fastapi import APIRouter, File, Form, UploadFile
from markupsafe import Markup
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from prefloop.config import Annotate
from prefloop.errors import DataError
from prefloop.store import Change, Scope
from prefloop.store.queue.rules import CHANGEABLE, LONGEST_GUIDELINES
from prefloop.web import uploading
from prefloop.web.pages import page
from prefloop.web.render import rendered
from prefloop.web.security.access import GatedRoute, Owner
from prefloop.web.services import services
from prefloop.web.views import guidelines as guidelines_view

router = APIRouter(route_class=GatedRoute)
Text = Annotated[str, Form(max_length=1000)]
VERSIONS = 20  # So many versions of the guidelines are shown.


# -- how people are asked ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Field:
    """Describes one setting as a form field.

    kind: "check", "choice", "list", "whole" or "number"
    change: the last change in the browser
    """

    key: str
    title: str
    kind: str
    value: str
    choices: tuple[str, ...]
    hint: Markup
    file: str
    change: Change | None


GROUPS: tuple[tuple[str, Mapping[str, str]], ...] = (
    (
        "What is asked",
        {
            "attributes": "Attributes rated 1 to 5",
            "rationale": "Reasons",
            "partial": "Answers may stay without a place",
            "none_acceptable": 'Offer "none acceptable"',
        },
    ),
    (
        "How many people rank an item",
        {
            "overlap": "An ordinary item: people",
            "overlap_many": "An item of the sample: people",
            "overlap_share": "Share of items in the sample, 0 to 1",
        },
    ),
    ("Limits", {"limit": "Most items a person may rank", "quota": "Rankings that prefloop run waits for"}),
    (
        "What people get",
        {"gold_share": "Share of gold items", "random_share": "Share handed out at random"},
    ),
    (
        "How long an item is kept for a person",
        {"lease_minutes": "Minutes after a sign of life", "lease_hours": "Hours at most"},
    ),
)


def _fields(now: Annotate, file: Annotate, changes: Mapping[str, Change]) -> list[tuple[str, list[Field]]]:
    return [
        (title, [_field(key, name, now, file, changes.get(key)) for key, name in names.items()])
        for title, names in GROUPS
    ]


def _field(key: str, title: str, now: Annotate, file: Annotate, change: Change | None) -> Field:
    about = Annotate.model_fields[key]
    kinds: dict[Any, str] = {bool: "check", int: "whole", int | None: "whole", float: "number"}
    choices = get_args(about.annotation) if key == "rationale" else ()
    kind = "choice" if choices else kinds.get(about.annotation, "list")
    value, said = _written(getattr(now, key)), _written(getattr(file, key)) or "none"
    return Field(key, title, kind, value, choices, _hint(about.description or ""), said, change)


def _hint(description: str) -> Markup:
    """Return the setting's description as a form shows it."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(description.replace("none = ", "empty = "))))


def _written(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else ""
    if isinstance(value, tuple):
        return ", ".join(value)
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _values(form: FormData) -> dict[str, Any]:
    """Return the values of a form in the form of [annotate]. Raises DataError for text that is not a number."""
    found: dict[str, Any] = {}
    for key in CHANGEABLE:
        kind = Annotate.model_fields[key].annotation
        text = str(form.get(key, "")).strip()
        if kind is bool:
            found[key] = text == "on"
        elif key == "attributes":
            found[key] = [name.strip() for name in text.split(",") if name.strip()]
        elif key == "rationale":
            found[key] = text
        elif not text:
            found[key] = None
        else:
            found[key] = _number(key, text, whole=kind is not float)
    return found


def _number(key: str, text: str, *, whole: bool) -> float:
    try:
        return int(text) if whole else float(text.replace(",", "."))
    except ValueError:
        raise DataError(f"{key}: {text[:40]!r} is not a {'whole ' if whole else ''}number") from None


@router.get("/settings")
def settings(request: Request, me: Owner) -> Response:
    return _settings(request)


def _settings(request: Request, status: int = 200, **more: str | None) -> Response:
    known = services(request)
    rules = known.queue.rules
    extra = {"token": None, "key": None, "done": None, "problem": None, **more}
    return page(
        request,
        "settings.html",
        status,
        groups=_fields(rules.current(look=True), rules.file, rules.changes()),
        fixed={key: getattr(rules.file, key) for key in ("criterion", "guidelines", "webhooks")},
        names={person.id: person.name or "(deleted)" for person in known.people.list()},
        tokens=known.people.api_tokens(),
        **extra,
    )


@router.post("/settings/rules")
async def change_rules(request: Request, me: Owner) -> Response:
    """Take the whole form. Fields that differ are changed, and logged with their old and new values."""
    return await run_in_threadpool(_change_rules, request, me.id, await request.form())


def _change_rules(request: Request, me: str, form: FormData) -> Response:
    known = services(request)
    try:
        changed = known.queue.rules.change(me, _values(form))
    except DataError as error:
        return _settings(request, 422, problem=f"Nothing was changed. {error}")
    known.queue.fill()  # This gives open items the new overlap.
    return _settings(request, done=f"Changed: {', '.join(changed)}." if changed else "Nothing differs from before.")


@router.post("/settings/rules/{key}/reset")
def reset_rule(request: Request, me: Owner, key: str) -> Response:
    """Return to what prefloop.toml says."""
    known = services(request)
    if key not in CHANGEABLE:
        raise DataError("there is no such setting")
    value = known.queue.rules.file.model_dump(mode="json")[key]
    known.queue.rules.change(me.id, {key: value})
    known.queue.fill()
    return RedirectResponse("/settings", 303)


# -- guidelines --------------------------------------------------------------------------------------------------------


@router.get("/settings/guidelines")
def guidelines_page(request: Request, me: Owner) -> Response:
    return _guidelines(request)


def _guidelines(
    request: Request, status: int = 200, text: str | None = None, editing: str = "", **more: str | None
) -> Response:
    """Return the editor page, with a preview if a text is given."""
    known = services(request)
    shown = guidelines_view.guidelines(known, look=True)
    edited = shown.text if text is None else text
    return page(
        request,
        "guidelines_edit.html",
        status,
        shown=shown,
        text=edited,
        editing=editing or shown.hash,
        preview=rendered(edited, typeset=True),
        changes=guidelines_view.pieces(shown.text, edited),
        versions=_versions(request),
        names={person.id: person.name or "(deleted)" for person in known.people.list()},
        file=known.config.annotate.guidelines,
        longest=LONGEST_GUIDELINES,
        **{"problem": None, "done": None, **more},
    )


def _versions(request: Request) -> list[tuple[Change, list[guidelines_view.Piece]]]:
    """Return the latest changes, newest first, each with its differences."""
    rules = services(request).queue.rules
    found = rules.versions()[: VERSIONS + 1]
    after = [rules.text_of(one.base if one.back else one.value) or "" for one in found]
    before = [*after[1:], *(rules.text_of(one.base) or "" for one in found[-1:])]
    return [(one, guidelines_view.pieces(old, new)) for one, old, new in zip(found, before, after, strict=True)][
        :VERSIONS
    ]


@router.post("/settings/guidelines")
def write_guidelines(
    request: Request,
    me: Owner,
    text: Annotated[str, Form(max_length=2 * LONGEST_GUIDELINES)],
    editing: Text,
    act: Annotated[Literal["preview", "save"], Form()] = "preview",
) -> Response:
    """Show a preview of a text, or make it the guidelines from now on."""
    known = services(request)
    text = text.replace("\r\n", "\n")
    if act == "preview":
        return _guidelines(request, text=text, editing=editing)
    try:
        differs = known.queue.rules.write_guidelines(me.id, text, guidelines_view.on_disk(known), editing)
    except DataError as error:
        return _guidelines(request, 422, text=text, editing=editing, problem=str(error))
    known.queue.rules.read(me.id, guidelines_view.guidelines(known))
    said = "Saved. Everybody is told once that the guidelines have changed, and sees what." if differs else "No change."
    return _guidelines(request, done=said)


@router.post("/settings/guidelines/file")
def guidelines_from_file(request: Request, me: Owner) -> Response:
    """Return to the file's text."""
    known = services(request)
    text = guidelines_view.on_disk(known)
    known.queue.rules.write_guidelines(me.id, text, text, guidelines_view.guidelines(known, look=True).hash)
    return RedirectResponse("/settings/guidelines", 303)


# -- items -------------------------------------------------------------------------------------------------------------


@router.get("/settings/items")
def items_page(request: Request, me: Owner) -> Response:
    return _items(request)


def _items(
    request: Request, status: int = 200, loaded: uploading.Loaded | None = None, problem: str | None = None
) -> Response:
    known = services(request)
    return page(
        request,
        "items.html",
        status,
        loaded=loaded,
        problem=problem,
        imports=known.store.imports()[-10:][::-1],
        most=uploading.MOST_BYTES // 1_000_000,
    )


@router.post("/settings/items")
def add_items(request: Request, me: Owner, file: Annotated[UploadFile, File()], ignore: Text = "") -> Response:
    """Import a file as `prefloop import` does. Bad rows are named, the others are kept."""
    known = services(request)
    fields = [name.strip() for name in ignore.split(",") if name.strip()]
    try:
        loaded = uploading.load(known, file.filename or "", file.file.read(uploading.MOST_BYTES + 1), fields)
    except DataError as error:
        return _items(request, 422, problem=str(error))
    known.people.record(me.id, "items added", f"{loaded.counts.items} items from a file", None, loaded.format)
    return _items(request, loaded=loaded)


# -- programs ----------------------------------------------------------------------------------------------------------


@router.post("/settings/tokens")
def create_token(request: Request, me: Owner, label: Text, scope: Annotated[Scope, Form()]) -> Response:
    """Return the page with the token. It is shown once, and only its hash is stored."""
    label = label.strip()[:64] or "program"
    return _settings(request, token=services(request).people.create_token(me.id, label, scope))


@router.post("/settings/tokens/{token}/revoke")
def revoke_token(request: Request, me: Owner, token: str) -> Response:
    services(request).people.revoke_token(me.id, token)
    return RedirectResponse("/settings", 303)


@router.post("/settings/webhook-key")
def webhook_key(request: Request, me: Owner) -> Response:
    """Show the key with which receivers of webhooks check signatures. Showing it is logged."""
    known = services(request).people
    known.record(me.id, "webhook key shown", "webhook")
    return _settings(request, key=known.secret("webhook"))
