"""Serves `/api/`: programs with a token add items, fetch rankings since a cursor, and see the progress, all in JSON."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, FastAPI, Query
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from prefloop.errors import DataError
from prefloop.exchange import RowError, read
from prefloop.exchange.formats.canonical import to_record
from prefloop.store.feed import rankings_since
from prefloop.types import Item, Ranking
from prefloop.web.pages import Cursor, page
from prefloop.web.security.access import GatedRoute, Reading, Writing, anyone
from prefloop.web.services import services

router = APIRouter(prefix="/api", route_class=GatedRoute)
MAX_RECORDS = 1000
EXAMPLE = {
    "id": "ticket-1",
    "prompt": "How do I reset my password?",
    "completions": [{"id": "a", "text": "Click on ..."}, {"id": "b", "text": "Ask your administrator."}],
}


class Rejected(BaseModel):
    """States why a record could not be used."""

    record: int = Field(description="its place in what was sent, from 1")
    reason: str


class Added(BaseModel):
    """Counts what was new. Sending the same records again adds nothing."""

    items: int
    completions: int
    rankings: int
    tasks: int = Field(description="items that people will now be asked to rank")
    rejected: list[Rejected]


class RankingOut(BaseModel):
    """Holds one person's ranking of one item, by completion ids (`<item id>:<local id>`)."""

    number: int = Field(description="rises with every ranking; the cursor of the last one is where to go on")
    id: str
    item_id: str
    annotator: str = Field(description="a random code; names are not given out")
    excluded: bool = Field(description="the annotator is left out of training at this moment")
    criterion: str
    tiers: list[list[str]] = Field(description="best first; completions in one tier tie; absent ones were not placed")
    unacceptable: list[str]
    none_acceptable: bool
    ratings: dict[str, dict[str, float]]
    flags: list[str]
    comment: str | None
    shown: list[str] = Field(description="the order in which the completions were shown")
    duration_s: float | None
    created_at: str | None
    supersedes: str | None = Field(description="the ranking that this one replaces")
    metadata: dict[str, Any]


class RankingsOut(BaseModel):
    rankings: list[RankingOut]
    cursor: int = Field(description="ask for what is new with `after` set to this")
    more: bool = Field(description="there may be more at once")


class Problem(BaseModel):
    """Every answer that is no success has this form."""

    error: str = Field(description="what happened and what to do")


class ProgressOut(BaseModel):
    wanted: int = Field(description="rankings asked for")
    done: int
    open: int
    target: int = Field(description="how many `prefloop run` waits for")
    met: bool
    items: int
    discarded: int


@router.post("/items", summary="Add items to be ranked")
def add_items(
    request: Request,
    token: Writing,
    records: Annotated[list[dict[str, Any]], Body(max_length=MAX_RECORDS, examples=[[EXAMPLE]])],
) -> Added:
    """Add canonical ranking records, as `prefloop export rankings` writes them; `rankings` may be missing.

    A record that cannot be used is named with the reason; the others are kept. An item is known by its content (and its
    `id`), so that sending it twice adds nothing.
    """
    known = services(request)
    good, bad = _parse(records, known.config.data.max_line_bytes)
    if bad and not good:
        raise DataError("; ".join(f"record {row.record}: {row.reason}" for row in bad[:5]))
    counts = known.store.add(good)
    tasks = known.queue.fill()
    known.people.record(token.created_by, "items added", f"{counts.items} items with token {token.id}")
    return Added(
        items=counts.items, completions=counts.completions, rankings=counts.rankings, tasks=tasks, rejected=bad
    )


def _parse(records: list[dict[str, Any]], max_line_bytes: int) -> tuple[list[Item], list[Rejected]]:
    """Parse records by way of a file, so that they pass the same checks as any import."""
    with tempfile.TemporaryDirectory(prefix="prefloop-") as folder:
        path = Path(folder) / "records.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        found = list(read(path, "rankings", max_line_bytes=max_line_bytes)) if records else []
    good = [record for record in found if isinstance(record, Item)]
    return good, [Rejected(record=row.line, reason=row.reason) for row in found if isinstance(row, RowError)]


@router.get("/rankings", summary="Fetch rankings since a cursor")
def rankings(
    request: Request,
    token: Reading,
    after: Annotated[Cursor, Query(description="the cursor of the last answer; 0 = from the start")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> RankingsOut:
    """Return every ranking once, in the order written.

    A corrected one comes again as a new one that `supersedes` it.
    """
    known = services(request)
    excluded = {person.id for person in known.people.list() if person.excluded is not None}
    found = rankings_since(known.store, after, limit)
    rows = [_out(number, ranking, ranking.annotator in excluded) for number, ranking in found]
    return RankingsOut(rankings=rows, cursor=found[-1][0] if found else after, more=len(found) == limit)


def _out(number: int, r: Ranking, excluded: bool) -> RankingOut:
    return RankingOut(
        number=number,
        id=r.id,
        item_id=r.item_id,
        annotator=r.annotator,
        excluded=excluded,
        criterion=r.criterion,
        tiers=[list(tier) for tier in r.tiers],
        unacceptable=list(r.unacceptable),
        none_acceptable=r.none_acceptable,
        ratings={key: dict(given) for key, given in r.ratings.items()},
        flags=list(r.flags),
        comment=r.comment,
        shown=list(r.shown),
        duration_s=r.duration_s,
        created_at=r.created_at,
        supersedes=r.supersedes,
        metadata=dict(r.metadata),
    )


@router.get("/items/{item}", summary="One item with its rankings")
def item(request: Request, token: Reading, item: str) -> dict[str, Any]:
    """Return the canonical ranking record of an item."""
    try:
        return to_record(services(request).store.item(item))
    except DataError:
        raise HTTPException(404, "there is no such item") from None


@router.get("/progress", summary="How far people are")
def progress(request: Request, token: Reading) -> ProgressOut:
    quota = services(request).queue.quota()
    return ProgressOut(
        wanted=quota.wanted,
        done=quota.done,
        open=quota.open,
        target=quota.target,
        met=quota.met,
        items=quota.tasks,
        discarded=quota.discarded,
    )


# -- its own description -----------------------------------------------------------------------------------------------


@router.get("/openapi.json", include_in_schema=False, dependencies=[Depends(anyone)])
def openapi(request: Request) -> Response:
    return JSONResponse(_schema(request.app))


@router.get("/docs", include_in_schema=False, dependencies=[Depends(anyone)])
def docs(request: Request) -> Response:
    """Return the description as a page of ours, because the usual viewers load scripts from elsewhere."""
    return page(request, "api.html", schema=_schema(request.app), example=json.dumps([EXAMPLE], indent=2))


def _schema(app: FastAPI) -> dict[str, Any]:
    if not hasattr(app.state, "schema"):
        schema = get_openapi(title=app.title, version=app.version, routes=router.routes, description=ABOUT)
        for path in schema["paths"].values():
            for operation in path.values():
                operation["responses"] |= PROBLEMS
        schema["components"]["schemas"]["Problem"] = Problem.model_json_schema()
        schema["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        schema["security"] = [{"token": []}]
        app.state.schema = schema
    found: dict[str, Any] = app.state.schema
    return found


PROBLEMS = {
    status: {
        "description": description,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    for status, description in (
        ("400", "The body is beyond the limits of JSON here."),
        ("401", "There is no token, or it does not work."),
        ("403", "The token may not do this."),
        ("404", "There is no such thing."),
        ("413", "The body is too large."),
        ("421", "The server is not known by this name."),
        ("422", "A value, or every record, cannot be used."),
        ("503", "The store is away or busy; Retry-After says when to come again."),
    )
}
ABOUT = (
    "For programs. Make a token under Settings and send it as `Authorization: Bearer TOKEN`. Errors are "
    '`{"error": "what happened and what to do"}` with a status of 4xx or 5xx. Webhooks (`[annotate] webhooks`) are '
    "told when there are new rankings; fetch those here."
)
