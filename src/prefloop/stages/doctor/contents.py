"""Checks a project without its models at work: every row of the store, every run folder, every registered file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from prefloop import record
from prefloop.errors import BusyError, DataError, PrefloopError
from prefloop.project.chance import chance_warnings
from prefloop.project.project import Project
from prefloop.stages.doctor.base import Check, guarded


def contents(project: Project) -> Iterator[Check]:
    """Check every row of the store, and how its database is set up."""

    def rows() -> Check:
        problems = project.store.check()
        if problems:
            return Check("store", "fail", f"{len(problems)} problems, first: {problems[0]}", "see docs/store.md")
        counts = project.store.counts()
        names = ("prompts", "demonstrations", "items", "rankings")
        return Check("store", "ok", "every row checked: " + ", ".join(f"{counts[name]} {name}" for name in names))

    yield guarded("store", rows)
    warnings = [w for w in project.store.warnings() if "WAL-reset" not in w]  # The machine's checks name that one.
    if warnings:
        yield Check("database", "warn", "; ".join(warnings))
    try:
        with project.lock():
            yield Check("lock", "ok", "nobody is working on this project")
    except BusyError as error:
        yield Check("lock", "warn", str(error), "what follows may change while it is looked at")


def run_folders(project: Project) -> Iterator[Check]:
    """Check that each run has what its status promises, and that registered models are where the store says."""
    broken, unfinished, done = [], [], 0
    for run in record.runs(project.root):
        try:
            status = run.status
            if status == "done" and not run.result:
                broken.append(f"{run.name} is done but has no result.json")
        except (OSError, DataError, KeyError) as error:
            broken.append(f"{run.name}: manifest or result cannot be read ({error})")
            continue
        if status == "done":
            done += 1
        else:
            unfinished.append(f"{run.name} ({status})")
    if broken:
        yield Check("runs", "fail", "; ".join(broken), "move these folders away and run their stages again")
    elif unfinished:
        detail = f"{done} done; unfinished: {', '.join(unfinished)}"
        yield Check("runs", "warn", detail, "the command that began one takes it up again, if nothing has changed")
    else:
        yield Check("runs", "ok", f"{done} done" if done else "none yet")
    yield from _registered(project)


def _registered(project: Project) -> Iterator[Check]:
    """Check that every file of every registered model is as it was when the model was registered."""
    rows, broken = project.store.models(), []
    for row in rows:
        try:
            folder = Path(project.ref(row).intact())
            if not any(folder.glob("*.safetensors")):
                broken.append(f"{row.version} is without weights ({row.path})")
        except (PrefloopError, OSError) as error:
            broken.append(str(error))
    unknown = [row.version for row in rows if row.files is None]
    if broken:
        advice = "put the files back, or move the runs of these stages away and run them again"
        yield Check("models", "fail", "; ".join(broken), advice)
    elif unknown:
        detail = f"{len(rows)} registered; of {', '.join(unknown[:5])} no hashes are known, so changes cannot be seen"
        yield Check("models", "ok", detail)
    else:
        yield Check("models", "ok", f"{len(rows)} registered, every file as it was" if rows else "none yet")


def reward_models(project: Project) -> Check:
    """Check that the reward models which `align` would use next are better than chance."""
    rows = project.store.models("reward")
    newest = max((row.metrics.get("round") or 0 for row in rows), default=0)
    used = list({row.criterion: row for row in rows if (row.metrics.get("round") or 0) == newest}.values())
    said = chance_warnings(project, used)
    if said:
        return Check("reward model", "warn", " ".join(said), "align says so too, and goes on")
    names = ", ".join(row.version for row in used)
    return Check("reward model", "ok", f"better than chance on held-out pairs: {names}" if used else "none yet")
