"""Routes of the ranking screen: they hand out presentations and take answers.

GET never writes: taking an item from the queue is a POST. Items travel as HTML made here (`rank_task.html`), which the
browser parses without running anything; everything else is JSON. Every call is in the name of `me`, and the queue
checks whose lease it is.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Body, Form
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from prefloop.labels.answer import from_json
from prefloop.store import Person
from prefloop.store.queue.types import Presentation
from prefloop.web.pages import fragment, page
from prefloop.web.render import rendered
from prefloop.web.security.access import Annotator, GatedRoute
from prefloop.web.services import services
from prefloop.web.templating import local
from prefloop.web.views import guidelines as guidelines_view
from prefloop.web.views import present

router = APIRouter(route_class=GatedRoute)
EARLIER = 10  # Undo can reach so many answers.
HISTORY = 200  # A person's history shows so many lines.
Uuid = Annotated[str, Field(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Next(_Body):
    after: str | None = Field(None, max_length=200)


class Submit(_Body):
    uuid: Uuid
    answer: dict[str, Any]


class Skip(_Body):
    uuid: Uuid
    reason: str = Field(max_length=50)
    answer: dict[str, Any] | None = None  # This is the unfinished answer; its flags and comment are kept.


class Draft(_Body):
    state: dict[str, Any]


# -- pages -------------------------------------------------------------------------------------------------------------


@router.get("/rank")
def rank(request: Request, me: Annotator, again: str = "") -> Response:
    """Return the screen without an item; its script asks for one.

    `again` is the lease of an earlier answer to change.
    """
    urls = {"next": "/rank/next", "base": "/rank", "given": "/rank/given", "after": ""}
    earlier = f"/rank/{again}/reopen" if re.fullmatch(r"[\w-]{1,200}", again, re.ASCII) else ""
    return screen(request, me, "rank", urls, open=earlier)


def screen(request: Request, me: Person, mode: str, urls: Mapping[str, str], open: str) -> Response:
    """Return the ranking screen under the current settings. open: the address of the first item, or ""."""
    known = services(request)
    settings = known.queue.rules.current()
    return page(
        request,
        "rank.html",
        mode=mode,
        person=me.id,
        rules=present.rules(settings),
        asked=guidelines_view.asked(known),
        rationale=settings.rationale,
        none_acceptable=settings.none_acceptable,
        lease_minutes=round(settings.lease_minutes),
        guidelines=rendered(guidelines_view.guidelines(known).text, typeset=True),
        urls=urls,
        open=open,
        **present.choices(),
    )


@router.get("/guidelines")
def guidelines(request: Request, me: Annotator) -> Response:
    """Return the guidelines on a page of their own, with what has changed since this person read them."""
    known = services(request)
    shown = guidelines_view.guidelines(known, look=True)
    before = known.queue.rules.text_of(me.guidelines) if me.guidelines and me.guidelines != shown.hash else None
    return page(
        request,
        "guidelines.html",
        guidelines=rendered(shown.text, typeset=True),
        changes=guidelines_view.pieces(before, shown.text) if before is not None else [],
        shown=shown,
    )


@router.post("/guidelines/read")
def guidelines_read(request: Request, me: Annotator, back: Annotated[str, Form(max_length=1000)] = "/") -> Response:
    """Remember that this person has read the current guidelines."""
    known = services(request)
    known.queue.rules.read(me.id, guidelines_view.guidelines(known, look=True))
    return RedirectResponse(local(back), 303)


@router.get("/history")
def history(request: Request, me: Annotator) -> Response:
    """Return what this person submitted or skipped, newest first."""
    queue = services(request).queue
    given = [(one, present.in_words(one.answer) if one.answer else "") for one in queue.history(me.id, HISTORY)]
    return page(request, "history.html", given=given, progress=queue.progress(me.id), most=HISTORY)


# -- the script's calls ------------------------------------------------------------------------------------------------


@router.post("/rank/next")
def next_item(request: Request, me: Annotator, body: Next) -> Response:
    """Return the item to rank now, or with `after` the one that follows it."""
    known = services(request)
    if me.guidelines is None:  # The guide is open beside a person's first item.
        known.queue.rules.read(me.id, guidelines_view.guidelines(known))
    return _item(request, known.queue.next(me.id, body.after), me.id, ahead=body.after is not None)


@router.post("/rank/given")
def given(request: Request, me: Annotator) -> JSONResponse:
    """Return the last answers that may be changed, newest first, for undo on a fresh page."""
    earlier = services(request).queue.history(me.id, EARLIER)
    return JSONResponse({"leases": [one.lease for one in earlier if one.editable]})


@router.post("/rank/{lease}/reopen")
def reopen(request: Request, me: Annotator, lease: str) -> Response:
    """Open an earlier answer again; the next submit supersedes it."""
    queue = services(request).queue
    return _item(request, queue.reopen(me.id, lease), me.id)


@router.post("/rank/{lease}/submit")
def submit(request: Request, me: Annotator, lease: str, body: Submit) -> JSONResponse:
    """Take an answer. Sending it again is harmless. The response does not say whether the item still needed it."""
    queue = services(request).queue
    queue.submit(me.id, lease, body.uuid, from_json(body.answer))
    return JSONResponse({"progress": present.progress_json(queue.progress(me.id))})


@router.post("/rank/{lease}/skip")
def skip(request: Request, me: Annotator, lease: str, body: Skip) -> JSONResponse:
    """Give the item to somebody else."""
    queue = services(request).queue
    said = None if body.answer is None else from_json(body.answer)
    queue.skip(me.id, lease, body.uuid, body.reason, said)
    return JSONResponse({"progress": present.progress_json(queue.progress(me.id))})


@router.post("/rank/{lease}/draft")
def draft(request: Request, me: Annotator, lease: str, body: Draft) -> JSONResponse:
    """Keep an unfinished answer."""
    services(request).queue.draft(me.id, lease, body.state)
    return JSONResponse({"saved": True})


@router.post("/rank/{lease}/heartbeat")
def heartbeat(request: Request, me: Annotator, lease: str, body: Annotated[dict[str, Any], Body()]) -> JSONResponse:
    """Keep the lease alive; `seconds` is how long the item is kept from now on."""
    queue = services(request).queue
    return JSONResponse({"seconds": max(0.0, queue.heartbeat(me.id, lease) - time.time())})


def _item(request: Request, shown: Presentation | None, me: str, *, ahead: bool = False) -> Response:
    """Return the response with an item.

    ahead: whether it is fetched before the previous item is answered; then it has no progress
    """
    known = services(request)
    progress = known.queue.progress(me) if shown is None or not ahead else None
    if shown is not None:
        return fragment(
            request, "rank_task.html", task=present.task_page(shown, progress), asked=guidelines_view.asked(known)
        )
    assert progress is not None
    done = present.finished(progress, held=known.queue.held_elsewhere(me))
    numbers = present.data(present.progress_json(progress))
    return fragment(request, "rank_task.html", task=None, done=done, progress=numbers)
