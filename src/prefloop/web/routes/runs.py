"""Holds owners' routes to the pages that show the project's runs."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from prefloop.web.pages import page
from prefloop.web.security.access import GatedRoute, Owner
from prefloop.web.watch import pages
from prefloop.web.watch.pages import Watching

router = APIRouter(route_class=GatedRoute)


def _watching(request: Request) -> Watching:
    found: Watching = request.app.state.watching
    return found


@router.get("/runs")
def runs(request: Request, me: Owner) -> Response:
    """Return the page with every run of the project."""
    return pages.list_page(request, _watching(request), page)


@router.get("/runs/compare")
def compare(request: Request, me: Owner) -> Response:
    """Return the page that compares runs."""
    return pages.compare_page(request, _watching(request), page)


@router.get("/runs/{place}/{run}")
def run(request: Request, me: Owner, place: str, run: str) -> Response:
    """Return the page of one run."""
    return pages.run_page(request, _watching(request), page)


@router.get("/runs/{place}/{run}/answers")
def answers(request: Request, me: Owner, place: str, run: str) -> Response:
    """Return the page with the answers of one step of a run."""
    return pages.answers_page(request, _watching(request), page)
