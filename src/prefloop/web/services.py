"""Holds the objects that routes work with. `create_app` makes them once, and routes find them through the request."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment
from starlette.requests import Request

from prefloop.config import Config
from prefloop.store import People, Queue, Store
from prefloop.web.security.hosts import Hosts
from prefloop.web.security.passwords import Passwords
from prefloop.web.security.throttle import Throttle
from prefloop.web.views.agreement import Figures
from prefloop.web.views.home import Paces


@dataclass(frozen=True)
class Services:
    """Holds the services of one process. Several threads may use all of them."""

    root: Path
    config: Config
    store: Store
    people: People
    queue: Queue
    templates: Environment
    hosts: Hosts
    throttle: Throttle = field(default_factory=Throttle)
    passwords: Passwords = field(default_factory=Passwords)
    figures: Figures = field(default_factory=Figures)
    paces: Paces = field(default_factory=Paces)


def services(request: Request) -> Services:
    """Return the services of the app that serves this request."""
    found: Services = request.app.state.services
    return found
