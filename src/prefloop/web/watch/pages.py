"""The pages themselves: from a request to a template and its values. Two applications serve them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from prefloop.diagnose.records import RunRecord
from prefloop.web.watch import curves
from prefloop.web.watch.answers import COLOURS, KINDS, LEVELS, SORTS, Answers, ordered
from prefloop.web.watch.compare import differences, results, settings
from prefloop.web.watch.found import DEEPEST, Folders, Place
from prefloop.web.watch.looking import Look, Looks
from prefloop.web.watch.results import facts
from prefloop.web.watch.reward import about

Show = Callable[..., Response]  # (request, template, status=200, **values)
WHILE_IT_RUNS_S, WHILE_WAITING_S, ELSE_S = 5, 1, 20  # after so many seconds a page looks again
ON_A_PAGE = 20  # answers
COMPARED = 8  # runs at most


@dataclass(frozen=True)
class Watching:
    """What is watched, and what was read of it so far."""

    folders: Folders
    looks: Looks = field(default_factory=Looks)
    answers: Answers = field(default_factory=Answers)

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
        about=about(look.run),
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


def answers_page(request: Request, watching: Watching, show: Show) -> Response:
    """Return the page with the answers of one step. What the address asks for and is not there becomes the usual."""
    look, asked = find(request, watching), request.query_params
    steps = watching.answers.steps(look.found.path)
    kinds = [kind for kind in KINDS if kind in steps] or ["eval"]
    kind = _one_of(asked.get("kind"), kinds, kinds[0])
    step = int(_one_of(asked.get("step"), [str(s) for s in steps.get(kind, ())], str(steps.get(kind, [0])[-1])))
    sort = _one_of(asked.get("sort"), SORTS, "prompt")
    order = _one_of(asked.get("order"), ("ascending", "descending"), "ascending" if sort == "prompt" else "descending")
    pairs = ordered(watching.answers.pairs(look.found.path, step, kind), sort, order == "descending")
    last = max(1, -(-len(pairs) // ON_A_PAGE))
    number = int(_one_of(asked.get("page"), [str(n) for n in range(1, last + 1)], "1"))
    chosen = {"kind": kind, "step": step, "sort": sort, "order": order}
    colours = [c for c in COLOURS if c == "none" or any(pair.answer.tokens(c) for pair in pairs)]
    chosen["colour"] = _one_of(asked.get("colour"), colours, colours[0])
    return show(
        request,
        "watch_answers.html",
        look=look,
        steps=steps,
        kinds=kinds,
        chosen=chosen,
        pairs=pairs[(number - 1) * ON_A_PAGE : number * ON_A_PAGE],
        first=(number - 1) * ON_A_PAGE,
        count=len(pairs),
        number=number,
        last=last,
        colours=colours,
        sorts=SORTS,
        torn=watching.answers.torn(look.found.path),
        levels=LEVELS,
    )


def compare_page(request: Request, watching: Watching, show: Show) -> Response:
    """Return the page that lays runs over each other and says in what they differ."""
    every = watching.folders.runs()
    wanted = list(dict.fromkeys(request.query_params.getlist("run")))[:COMPARED]
    known = {found.key: found for found in every}
    looks = [watching.looks.look(known[key], wait=False) for key in wanted if key in known]
    stages = {look.run.stage for look in looks}
    others = [look for look in watching.looks.all(every, patience_s=0) if not stages or look.run.stage in stages]
    runs = [look.run for look in looks]
    return show(
        request,
        "watch_compare.html",
        looks=looks,
        names=[_name(look, looks) for look in looks],
        missing=len(wanted) - len(looks),
        others=others,
        differences=differences(runs) if len(looks) > 1 else {},
        results=results(runs, [_evaluation(look, watching) for look in looks]),
        panels=curves.overlaid([(_name(look, looks), look.run) for look in looks]) if len(looks) > 1 else [],
        most=COMPARED,
    )


def _name(look: Look, among: Sequence[Look]) -> str:
    """Return the run's name, with its project where runs of several are compared."""
    places = {other.found.place.key for other in among}
    return look.run.name if len(places) == 1 else f"{look.found.place.title}: {look.run.name}"


def _evaluation(look: Look, watching: Watching) -> RunRecord | None:
    """Return the newest finished evaluation of a run's policy."""
    found = None
    for run in watching.folders.runs():
        if run.place == look.found.place and run.path.name.startswith("evaluate"):
            other = watching.looks.look(run, wait=False).run
            if other.status == "done" and other.result.get("policy") == look.run.name:
                found = other
    return found


def _one_of(asked: str | None, known: Sequence[str], usual: str) -> str:
    return asked if asked is not None and asked in known else usual
