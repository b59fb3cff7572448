"""Holds reviewers' routes: the queue, one item with all rankings, and figures about people.

Forms change things by POST and return to their page. The store checks again who may do what.
"""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Form
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from prefloop.errors import DataError
from prefloop.labels.answer import from_json
from prefloop.web.pages import Cursor, page
from prefloop.web.routes.rank import Submit, screen
from prefloop.web.security.access import GatedRoute, Reviewer
from prefloop.web.services import services
from prefloop.web.views import guidelines as guidelines_view
from prefloop.web.views import present
from prefloop.web.views import review as review_view

router = APIRouter(route_class=GatedRoute)
Text = Annotated[str, Form(max_length=1000)]


def _to(item: str) -> RedirectResponse:
    return RedirectResponse(_address(item), 303)


def _address(item: str) -> str:
    return f"/review/items/{quote(item, safe='')}"


# -- the queue ---------------------------------------------------------------------------------------------------------


@router.get("/review")
def review(request: Request, me: Reviewer, kind: review_view.Kind = "all", after: Cursor = 0) -> Response:
    """Return a page of the queue; `kind` filters, `after` is the cursor."""
    known = services(request)
    criterion = known.config.annotate.criterion
    found = review_view.listing(known.queue, known.store, criterion, kind, after)
    quota = known.queue.quota()
    return page(
        request,
        "review.html",
        found=found,
        kind=kind,
        kinds=review_view.KINDS,
        quota=quota,
        tallies=known.queue.tallies(),
        after=after,
        scan=review_view.SCAN,
    )


@router.get("/review/items/{item}")
def item_page(request: Request, me: Reviewer, item: str) -> Response:
    """Return the page with everyone's rankings of an item side by side."""
    view = services(request).queue.view(item)
    opposed, ordered = review_view.opposition([one.ranking for one in view.said])
    return page(
        request,
        "review_item.html",
        view=view,
        rows=review_view.rows(view),
        turns=present.turns(view.item.prompt),
        cards=review_view.texts(view.item),
        gold=review_view.letters(view.gold, view.item) if view.gold is not None else None,
        opposed=opposed,
        ordered=ordered,
        letters=review_view.letters_of(view.item),
        address=_address(item),
        skip_words=present.SKIP_WORDS,
    )


# -- what a reviewer does ----------------------------------------------------------------------------------------------


@router.get("/review/items/{item}/adjudicate")
def adjudicate_page(request: Request, me: Reviewer, item: str) -> Response:
    """Return the ranking screen for a reviewer's own ranking of an item."""
    known = services(request)
    known.queue.view(item)  # A missing item is reported before the screen is shown.
    here = _address(item)
    urls = {"next": "", "base": f"{here}/adjudicate", "given": "", "after": here}
    return screen(request, me, "adjudicate", urls, open=f"{here}/task")


@router.post("/review/items/{item}/task")
def adjudication_task(request: Request, me: Reviewer, item: str) -> Response:
    """Return the item for the screen's script, in the order of the item's own page."""
    known = services(request)
    task = review_view.adjudication_page(known.queue.view(item), known.queue.rules.current().attributes)
    return page(request, "rank_task.html", task=task, asked=guidelines_view.asked(known))


@router.post("/review/items/{item}/adjudicate")
def adjudicate(request: Request, me: Reviewer, item: str, body: Submit) -> JSONResponse:
    """Take a reviewer's ranking. It is kept beside the others, and marked."""
    services(request).queue.adjudicate(me.id, item, body.uuid, from_json(body.answer))
    return JSONResponse({"saved": True})


@router.post("/review/items/{item}/give-back")
def give_back(request: Request, me: Reviewer, item: str, person: Text, note: Text = "") -> Response:
    """Ask a person to rank the item again."""
    services(request).queue.give_back(me.id, item, person, note.strip())
    return _to(item)


@router.post("/review/items/{item}/discard")
def discard(request: Request, me: Reviewer, item: str, reason: Text) -> Response:
    """Take the item out of every queue and out of training."""
    if not reason.strip():
        raise DataError("say why the item is discarded: others will want to know")
    services(request).queue.discard(me.id, item, reason.strip())
    return _to(item)


@router.post("/review/items/{item}/restore")
def restore(request: Request, me: Reviewer, item: str) -> Response:
    """Undo `discard`."""
    services(request).queue.restore(me.id, item)
    return _to(item)


@router.post("/review/items/{item}/gold")
def gold(request: Request, me: Reviewer, item: str, ranking: Text = "") -> Response:
    """Make one of the rankings the expected answer; without one, make the item an ordinary item again."""
    queue = services(request).queue
    tiers = None
    if ranking:
        tiers = next((one.ranking.tiers for one in queue.view(item).said if one.ranking.id == ranking), None)
        if tiers is None:
            raise DataError("that ranking is not (or no longer) one of this item's. Open the item again.")
    queue.set_gold(me.id, item, tiers)
    return _to(item)


@router.post("/review/items/{item}/exclude")
def exclude(request: Request, me: Reviewer, item: str, person: Text, reason: Text) -> Response:
    """Leave a person's rankings out of training, from an item's page. It is undone on the person's page."""
    if not reason.strip():
        raise DataError("say why this person's rankings are left out: it is kept in the audit log")
    services(request).people.exclude(me.id, person, reason.strip())
    return _to(item)


# -- agreement ---------------------------------------------------------------------------------------------------------


@router.get("/agreement")
def agreement(request: Request, me: Reviewer, criterion: str = "") -> Response:
    """Return the page of what the rankings say about annotators and items, by default by the current criterion."""
    known = services(request)
    criteria = {known.config.annotate.criterion: 0} | known.store.criteria()
    wanted = criterion or known.config.annotate.criterion
    if wanted not in criteria:
        raise DataError("nobody has ranked by that criterion; open the page without one")
    look = known.figures.get(known.root, known.config, known.store, wanted)
    people = {person.id: person for person in known.people.list()}
    return page(
        request,
        "agreement.html",
        found=look.counted,
        counting=look.counting,
        people=people,
        criterion=wanted,
        criteria=list(criteria),
    )
