"""The pages themselves: from a request to a template and its values. Two applications serve them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from prefloop.web.watch import curves
from prefloop.web.watch.compare import settings
from prefloop.web.watch.found import DEEPEST, Folders, Place
from prefloop.web.watch.looking import Look, Looks
from prefloop.web.watch.results import facts

Show = Callable[..., Response]  # (request, template, status=200, **values)
WHILE_IT_RUNS_S, WHILE_WAITING_S, ELSE_S = 5, 1, 20  # after so many seconds a page looks again


@dataclass(frozen=True)
class Watching:
    """What is watched, and what was read of it so far."""

    folders: Folders
    looks: Looks = field(default_factory=Looks)

    @classmethod
    def at(cls, roots: Sequence[Path], deepest: int = DEEPEST) -> Watching:
        return cls(Folders(roots, deepest))


@dataclass(frozen=True)
class Shelf:
    """The runs of one place, the newest first."""

    place: Place
    looks: tuple[Look, ...]


def list_page(request: Request, watching: Watching, show: Show) -> Response:
    """Return the page with every run."""
    looks = watching.looks.all(watching.folders.runs())
    newest = {look.found.place.key: place for place, look in reversed(list(enumerate(looks)))}
    looks.sort(key=lambda look: newest[look.found.place.key])
    shelves = [Shelf(some[0].found.place, tuple(some)) for some in _by_place(looks)]
    waiting = any(look.diagnosis is None for look in looks)
    running = any(look.state == "running" for look in looks)
    seconds = WHILE_WAITING_S if waiting else WHILE_IT_RUNS_S if running else ELSE_S
    return show(request, "watch_runs.html", shelves=shelves, roots=watching.folders.roots, seconds=seconds)


def _by_place(looks: Sequence[Look]) -> list[list[Look]]:
    return [list(some) for _, some in groupby(looks, key=lambda look: look.found.place.key)]


def run_page(request: Request, watching: Watching, show: Show) -> Response:
    """Return the page of one run."""
    look = find(request, watching)
    diagnosis = look.diagnosis
    findings = diagnosis.findings if diagnosis else ()
    first, others = curves.panels(look.run, findings)
    return show(
        request,
        "watch_run.html",
        look=look,
        findings=findings,
        asked=len(diagnosis.asked) if diagnosis else 0,
        problems=diagnosis.problems if diagnosis else look.run.problems,
        first=first,
        others=others,
        facts=facts(look.run),
        settings=settings(look.run),
        has_samples=(look.found.path / "samples.jsonl").is_file(),
        seconds=WHILE_IT_RUNS_S if look.state == "running" else 0,
    )


def find(request: Request, watching: Watching) -> Look:
    """Return the run that the address names. Raises HTTPException 404 where there is none."""
    found = watching.folders.run(request.path_params["place"], request.path_params["run"])
    if found is None:
        raise HTTPException(404, "there is no such run here (any more)")
    return watching.looks.look(found)
