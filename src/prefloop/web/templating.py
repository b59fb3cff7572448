"""Makes the environment that renders pages. Everything is escaped by default."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request

from prefloop.report.text import seconds
from prefloop.web.render import raw, rendered

HERE = Path(__file__).parent
THEMES = ("auto", "light", "dark")
THEME_COOKIE = "prefloop_theme"


def theme_of(request: Request) -> str:
    """Return the colour theme that a browser asks for by its cookie."""
    theme = request.cookies.get(THEME_COOKIE, "auto")
    return theme if theme in THEMES else "auto"


def make_templates() -> Environment:
    """Return the Jinja environment.

    Filters for untrusted text are `rendered` (Markdown, for block elements) and `visible` (unchanged, for use inside a
    line or `.raw`). `when` and `ago` format seconds since 1970. Everything else is escaped, and an unknown name is an
    error.
    """
    templates = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {
        "rendered": rendered,
        "visible": raw,
        "when": when,
        "size": size,
        "ago": ago,
        "span": span,
        "seconds": seconds,
        "slug": slug,
    }
    return templates


def when(at: float) -> Markup:
    """Return seconds since 1970 as a date in UTC that people and programs can read.

    The server knows no other time zone.
    """
    moment = datetime.fromtimestamp(at, UTC)
    return Markup('<time datetime="{}">{} UTC</time>').format(
        moment.isoformat(timespec="seconds"), moment.strftime("%Y-%m-%d %H:%M")
    )


def slug(text: str) -> str:
    """Return a text as a part of an id: its letters, digits and underscores."""
    return re.sub(r"[^a-z0-9_]+", "-", text.lower())


def size(number: float) -> str:
    """Return a number of bytes in words for people."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"


def span(seconds: float) -> str:
    """Return a duration, roughly: "5 minutes", "3.5 hours", "12 days"."""
    for unit, length, most in (("minute", 60, 90), ("hour", 3600, 36), ("day", 86400, 60), ("week", 604800, 10**9)):
        number = seconds / length
        if number < most:
            said = f"{number:.1f}".removesuffix(".0") if number < 10 and unit != "minute" else f"{max(1, number):.0f}"
            return f"{said} {unit}{'' if said == '1' else 's'}"
    return "years"


def ago(at: float, to_the_second: bool = False) -> Markup:
    """Return how long ago a moment was, with the moment itself as a title.

    to_the_second: say "9 seconds" and not "1 minute"
    """
    moment, past = datetime.fromtimestamp(at, UTC), max(0.0, time.time() - at)
    said = f"{past:.0f} seconds" if to_the_second and past < 60 else span(past)
    return Markup('<time datetime="{}" title="{} UTC">{} ago</time>').format(
        moment.isoformat(timespec="seconds"), moment.strftime("%Y-%m-%d %H:%M"), said
    )


def local(path: str) -> str:
    """Return a path of this server, or "/". It is never an address of another server (`//host`, `/\\host`)."""
    return path if re.fullmatch(r"/(?![/\\])[!-~]*", path) and "\\" not in path else "/"
