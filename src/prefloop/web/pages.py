"""Pages from templates: escaped by default, with what every page needs to know."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from fastapi import Query
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse

from prefloop.web.render import raw, rendered
from prefloop.web.security.access import current
from prefloop.web.services import services
from prefloop.web.views.guidelines import changed_for

HERE = Path(__file__).parent
Cursor = Annotated[int, Query(ge=0, le=2**63 - 1)]  # a row's number; databases know no larger ones
THEMES = ("auto", "light", "dark")
THEME_COOKIE = "prefloop_theme"


def make_templates() -> Environment:
    """Filters for untrusted text: `rendered` (Markdown, block elements) and `visible` (as it is, inside a line or
    `.raw`); `when` and `ago` for seconds since 1970. Everything else is escaped; a name that the page was not given is
    an error.
    """
    templates = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"rendered": rendered, "visible": raw, "when": when, "size": size, "ago": ago, "span": span}
    return templates


def when(at: float) -> Markup:
    """Seconds since 1970 as a date people read and programs can, in UTC: the server knows no other clock of theirs."""
    moment = datetime.fromtimestamp(at, UTC)
    return Markup('<time datetime="{}">{} UTC</time>').format(
        moment.isoformat(timespec="seconds"), moment.strftime("%Y-%m-%d %H:%M")
    )


def size(number: float) -> str:
    """Bytes as people say them."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"


def span(seconds: float) -> str:
    """How long, roughly: "5 minutes", "3.5 hours", "12 days"."""
    for unit, length, most in (("minute", 60, 90), ("hour", 3600, 36), ("day", 86400, 60), ("week", 604800, 10**9)):
        number = seconds / length
        if number < most:
            said = f"{number:.1f}".removesuffix(".0") if number < 10 and unit != "minute" else f"{max(1, number):.0f}"
            return f"{said} {unit}{'' if said == '1' else 's'}"
    return "years"


def ago(at: float) -> Markup:
    """How long ago, with the moment itself for whoever wants it."""
    moment = datetime.fromtimestamp(at, UTC)
    return Markup('<time datetime="{}" title="{} UTC">{} ago</time>').format(
        moment.isoformat(timespec="seconds"), moment.strftime("%Y-%m-%d %H:%M"), span(max(0.0, time.time() - at))
    )


def page(request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """A template with `me` (who is signed in, or None), `guide_changed` (the guidelines did since they read them),
    `project` (its name), `theme` and `path` beside the values."""
    known, me = services(request), current(request)
    theme = request.cookies.get(THEME_COOKIE, "auto")
    common = {
        "me": me,
        "guide_changed": me is not None and changed_for(known, me),
        "project": known.config.project.name,
        "theme": theme if theme in THEMES else "auto",
        "path": request.url.path,
    }
    return HTMLResponse(known.templates.get_template(template).render(common | values), status)


def fragment(request: Request, template: str, **values: Any) -> HTMLResponse:
    """A part of a page that its script asks for: a template that says nothing of who asks."""
    return HTMLResponse(services(request).templates.get_template(template).render(values))


def local(path: str) -> str:
    """A path of this server, or the start: never an address of elsewhere (`//host`, `/\\host`)."""
    return path if re.fullmatch(r"/(?![/\\])[!-~]*", path) and "\\" not in path else "/"
