"""Pages from templates: escaped by default, with what every page needs to know."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from fastapi import Query
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse

from prefloop.web.guard import current
from prefloop.web.render import raw, rendered
from prefloop.web.services import services

HERE = Path(__file__).parent
Cursor = Annotated[int, Query(ge=0, le=2**63 - 1)]  # a row's number; databases know no larger ones
THEMES = ("auto", "light", "dark")
THEME_COOKIE = "prefloop_theme"


def make_templates() -> Environment:
    """Filters for untrusted text: `rendered` (Markdown, block elements) and `visible` (as it is, inside a line or
    `.raw`); `when` for seconds since 1970. Everything else is escaped; a name that the page was not given is an error.
    """
    templates = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"rendered": rendered, "visible": raw, "when": when}
    return templates


def when(at: float) -> Markup:
    """Seconds since 1970 as a date people read and programs can, in UTC: the server knows no other clock of theirs."""
    moment = datetime.fromtimestamp(at, UTC)
    return Markup('<time datetime="{}">{} UTC</time>').format(
        moment.isoformat(timespec="seconds"), moment.strftime("%Y-%m-%d %H:%M")
    )


def page(request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """A template with `me` (who is signed in, or None), `project` (its name), `theme` and `path` beside the values."""
    known = services(request)
    theme = request.cookies.get(THEME_COOKIE, "auto")
    common = {
        "me": current(request),
        "project": known.config.project.name,
        "theme": theme if theme in THEMES else "auto",
        "path": request.url.path,
    }
    return HTMLResponse(known.templates.get_template(template).render(common | values), status)
