"""`prefloop doctor`: is the machine, the project, the model fit? Reads everything, changes nothing.

The invariants of the model itself are in `invariants.py`.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from prefloop import record
from prefloop.config import CONFIG_NAME, load_config
from prefloop.errors import BusyError, PrefloopError
from prefloop.project.project import Project
from prefloop.stages.measure import chance_warnings
from prefloop.store import Store
from prefloop.store.connections.database import sqlite_warnings

Status = Literal["ok", "warn", "fail", "skipped"]

# the lower ends of pyproject.toml's ranges; a test holds them equal
NEEDS = {
    "python": "3.11",
    "torch": "2.6",
    "transformers": "5.0",
    "safetensors": "0.5",
    "tokenizers": "0.21",
    "numpy": "1.26",
    "scipy": "1.11",
    "pydantic": "2.7",
    "click": "8.1",
    "sqlalchemy": "2.0.30",
    "alembic": "1.13",
    "pyarrow": "15",
}
LOW_MEMORY_GB, LOW_DISK_GB = 2.0, 2.0


@dataclass(frozen=True)
class Check:
    """One question with its answer. `advice`: what to do, where there is something to do."""

    name: str
    status: Status
    detail: str
    advice: str = ""


def doctor(root: Path | None, overrides: Sequence[str] = (), with_model: bool = True) -> list[Check]:
    """Check the machine and, with a `root`, the project and its models. Never raises for what it finds."""
    checks = list(machine(root or Path.cwd()))
    if root is None:
        return checks
    try:
        config = load_config(root / CONFIG_NAME, list(overrides))
    except PrefloopError as error:
        return [*checks, Check("settings", "fail", str(error), f"correct {root / CONFIG_NAME}")]
    checks.append(Check("settings", "ok", f"{root / CONFIG_NAME} is read without problems"))
    try:
        store = Store.open(config.project.store, root, create=False)
    except PrefloopError as error:
        missing = "there is no store" in str(error)
        advice = "prefloop import FILE makes it" if missing else "see docs/store.md"
        return [*checks, Check("store", "warn" if missing else "fail", str(error), advice)]
    with Project(root, config, store, quiet=True) as project:
        checks += [*contents(project), *run_folders(project)]
        checks.append(guarded("reward model", lambda: reward_models(project)))
        if with_model:
            from prefloop.stages.doctor.invariants import invariants

            checks += invariants(project)
    return checks


# -- machine ---------------------------------------------------------------------------------------------------------


def machine(folder: Path) -> Iterator[Check]:
    """Versions, cores, memory, disk, SQLite."""
    yield _versions()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = _memory_gb()
    if memory is None:
        yield Check("processor", "ok", f"{cores} cores; memory unknown")
    else:
        low = memory < LOW_MEMORY_GB
        advice = "small models only: lower batch, token_budget and max_tokens" if low else ""
        yield Check("processor", "warn" if low else "ok", f"{cores} cores, {memory:.1f} GB memory", advice)
    free = shutil.disk_usage(folder if folder.exists() else Path.cwd()).free / 1e9
    low = free < LOW_DISK_GB
    advice = "checkpoints take about 12 bytes a parameter, twice: free some space" if low else ""
    yield Check("disk", "warn" if low else "ok", f"{free:.1f} GB free at {folder}", advice)
    warnings = sqlite_warnings(sqlite3.sqlite_version_info, "wal")
    yield Check("sqlite", "warn" if warnings else "ok", "; ".join(warnings) or f"SQLite {sqlite3.sqlite_version}")


def _versions() -> Check:
    found, problems = [], []
    for name, least in NEEDS.items():
        try:
            version = platform.python_version() if name == "python" else metadata.version(name)
        except metadata.PackageNotFoundError:
            problems.append(f"{name} is not installed")
            continue
        if _numbers(version) < _numbers(least):
            problems.append(f"{name} {version} is older than {least}")
        elif name in ("python", "torch", "transformers"):
            found.append(f"{name} {version}")
    advice = f"{sys.executable} -m pip install --upgrade prefloop"
    return (
        Check("versions", "fail", "; ".join(problems), advice)
        if problems
        else Check("versions", "ok", ", ".join(found))
    )


def _numbers(version: str) -> tuple[int, ...]:
    """(2, 6, 0) of "2.6.0+cpu"."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def _memory_gb() -> float | None:
    """What this process may use: the machine's, or its container's limit."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
    limit = Path("/sys/fs/cgroup/memory.max")
    with suppress(OSError, ValueError):  # no such file, or "max"
        total = min(total, int(limit.read_text()))
    return total / 1e9


# -- project ---------------------------------------------------------------------------------------------------------


def contents(project: Project) -> Iterator[Check]:
    """Every row of the store, and how its database is set up."""

    def rows() -> Check:
        problems = project.store.check()
        if problems:
            return Check("store", "fail", f"{len(problems)} problems, first: {problems[0]}", "see docs/store.md")
        counts = project.store.counts()
        names = ("prompts", "demonstrations", "items", "rankings")
        return Check("store", "ok", "every row checked: " + ", ".join(f"{counts[name]} {name}" for name in names))

    yield guarded("store", rows)
    warnings = [w for w in project.store.warnings() if "WAL-reset" not in w]  # the machine's checks name that one
    if warnings:
        yield Check("database", "warn", "; ".join(warnings))
    try:
        with project.lock():
            yield Check("lock", "ok", "nobody is working on this project")
    except BusyError as error:
        yield Check("lock", "warn", str(error), "what follows may change while it is looked at")


def run_folders(project: Project) -> Iterator[Check]:
    """Runs have what their status promises; registered models are where the store says."""
    broken, unfinished, done = [], [], 0
    for run in record.runs(project.root):
        try:
            status = run.status
            if status == "done" and not run.result:
                broken.append(f"{run.name} is done but has no result.json")
        except (OSError, ValueError, KeyError) as error:
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
    """Every file of every registered model is what it was when the model was registered."""
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
    """Those that `align` would use next are better than chance."""
    rows = project.store.models("reward")
    newest = max((row.metrics.get("round") or 0 for row in rows), default=0)
    used = list({row.criterion: row for row in rows if (row.metrics.get("round") or 0) == newest}.values())
    said = chance_warnings(project, used)
    if said:
        return Check("reward model", "warn", " ".join(said), "align says so too, and goes on")
    names = ", ".join(row.version for row in used)
    return Check("reward model", "ok", f"better than chance on held-out pairs: {names}" if used else "none yet")


def guarded(name: str, look: Callable[[], Check]) -> Check:
    """A check that cannot be made is one that failed: doctor goes on with the others."""
    try:
        return look()
    except PrefloopError as error:
        return Check(name, "fail", str(error))
    except Exception as error:  # noqa: BLE001 -- whatever breaks here is what the doctor was called for
        return Check(name, "fail", f"{type(error).__name__}: {error}", "report this, with what led to it")
