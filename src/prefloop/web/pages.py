"""Renders pages from templates. Everything is escaped by default."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query
from starlette.requests import Request
from starlette.responses import HTMLResponse

from prefloop.web.security.access import current
from prefloop.web.services import services
from prefloop.web.templating import theme_of
from prefloop.web.views.guidelines import changed_for

Cursor = Annotated[int, Query(ge=0, le=2**63 - 1)]  # The upper bound is the largest row number of a database.


def page(request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """Return a page from a template.

    Beside `values` it gets `me` (who is signed in, or None), `guide_changed` (whether the guidelines changed since they
    read them), `project` (its name), `theme` and `path`.
    """
    known, me = services(request), current(request)
    common = {
        "me": me,
        "guide_changed": me is not None and changed_for(known, me),
        "project": known.config.project.name,
        "theme": theme_of(request),
        "path": request.url.path,
    }
    return HTMLResponse(known.templates.get_template(template).render(common | values), status)


def fragment(request: Request, template: str, **values: Any) -> HTMLResponse:
    """Return a part of a page that a script asks for. Its template shows nothing about who asks."""
    return HTMLResponse(services(request).templates.get_template(template).render(values))
