"""Runs `prefloop case`: a healthy run, the same with a fault, its diagnosis, and what that printed, applied.

    OUT/            the project with the fault, like any other: prefloop.toml, store and runs
    OUT/healthy/    the same project without the fault
    OUT/case.json   what it came to
    OUT/case.html   before, with the fault, and after, on one page

Everything derives from the seed. The same command again goes on where it was stopped, and says what is done already.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from prefloop import record
from prefloop.cases.case import Case, find
from prefloop.cases.measuring import Measured, measure, restored
from prefloop.cases.page import render
from prefloop.cases.remedy import apply
from prefloop.cases.world import change, copied, run_stages, world
from prefloop.config import CONFIG_NAME
from prefloop.diagnose.finding import Finding
from prefloop.errors import ConfigError, TrainingError
from prefloop.project.project import Project
from prefloop.results import CaseFigures, CaseFinding
from prefloop.stages.diagnosing import diagnose_runs

RESULT, PAGE, MADE_BY = "case.json", "case.html", ".case.json"


def run_case(name: str, out: Path, seed: int = 0, quiet: bool = False, base: Path | None = None) -> CaseFigures:
    """Run a case in `out`, or go on with it; what is done already is returned as it is.

    base: where the world of all cases is kept, to be used again; by default it is made and removed.
    Raises ConfigError for an unknown case or a folder with something else, TrainingError where nothing was diagnosed.
    """
    case, began = find(name), time.perf_counter()
    if done := _claim(case, out, seed):
        return done
    shared = base if base is not None else out / ".base"
    _say(quiet, f"case {case.name}: {case.title}\n  1 of 4: a healthy run")
    healthy = _healthy(case, out, shared, seed, quiet)
    _say(quiet, f"  2 of 4: with the fault: {case.planted}")
    _plant(case, out, shared, seed, quiet)
    run_stages(out, () if _runs(out) else case.stages, quiet=quiet)
    fault = _runs(out)[0]
    finding = first_finding(case, out, seed, fault)
    _say(quiet, f"  3 of 4: prefloop diagnose says of {finding.run}: {finding.title}\n    next: {finding.action.said}")
    applied = apply(case, out, finding.action.command, quiet)
    after = _runs(out)[-1]
    _say(quiet, "  4 of 4: held-out prompts are answered, and the hidden quality is looked up")
    measured = _measured(case, out, healthy, fault, after, quiet)
    cost = measured["healthy"].quality.mean() > measured["fault"].quality.mean()
    result = CaseFigures(
        name=case.name,
        title=case.title,
        seed=seed,
        seconds=round(time.perf_counter() - began, 1),
        planted=case.planted,
        settings=case.fault,
        finding=_shown(case, finding),
        applied=applied,
        truth=case.truth_is,
        reference=measured["reference"].interval(seed),
        healthy=measured["healthy"].interval(seed),
        fault=measured["fault"].interval(seed),
        after=measured["after"].interval(seed),
        restored=restored(measured["healthy"], measured["fault"], measured["after"], seed) if cost else None,
        runs={"healthy": healthy, "fault": fault, "after": after},
        page=str(out / PAGE),
    )
    record.write_atomic(out / PAGE, render(case, out, result, finding, measured).encode())
    record.write_json_atomic(out / RESULT, result.figures())
    for scratch in (out / ".base", out / ".start"):
        shutil.rmtree(scratch, ignore_errors=True)
    return result


def _claim(case: Case, out: Path, seed: int) -> CaseFigures | None:
    """Take a folder for a case; return its result if it has one. Raises ConfigError where it holds something else."""
    mark = {"case": case.name, "seed": seed}
    if out.exists() and any(out.iterdir()) and _read(out / MADE_BY) != mark:
        raise ConfigError(f"{out} holds something else, or the case with another seed. Give another --out.")
    out.mkdir(parents=True, exist_ok=True)
    record.write_json_atomic(out / MADE_BY, mark)
    return CaseFigures.read(_read(out / RESULT), skipped=True)


def _read(path: Path) -> dict[str, Any]:
    return record.read_json(path) if path.is_file() else {}


def _start(case: Case, out: Path, base: Path, seed: int, quiet: bool) -> Path:
    """Return the project that both projects of the case are copies of."""
    if not case.task:
        return world(base, case.starts, seed, quiet)
    started = copied(world(base, "sampled", seed, quiet), out / ".start")
    _settle(case, started, case.task)
    run_stages(started, ("crowd", "reward") if case.starts == "rewarded" else (), quiet=quiet)
    return started


def _healthy(case: Case, out: Path, base: Path, seed: int, quiet: bool) -> str:
    """Make the project without the fault; return its run of `align`."""
    if case.task:
        root = copied(_start(case, out, base, seed, quiet), out / "healthy")
        run_stages(root, case.stages, quiet=quiet)
    else:
        root = copied(world(base, "healthy", seed, quiet), out / "healthy")
    return _runs(root)[0]


def _plant(case: Case, out: Path, base: Path, seed: int, quiet: bool) -> None:
    """Make the project with the fault. Its settings file comes last, which says that the rest is there."""
    if (out / CONFIG_NAME).exists():
        return
    unfinished = out / ".fault.new"
    shutil.rmtree(unfinished, ignore_errors=True)
    copied(_start(case, out, base, seed, quiet), unfinished)
    _settle(case, unfinished, case.fault)
    if case.plant:
        with Project.open(unfinished, quiet=quiet) as project:
            case.plant(project)
    for path in sorted(unfinished.iterdir(), key=lambda p: p.name == CONFIG_NAME):
        path.replace(out / path.name)
    unfinished.rmdir()


def _settle(case: Case, root: Path, settings: tuple[str, ...]) -> None:
    for name, text in case.files.items():
        record.write_atomic(root / name, text.encode())
    change(root, settings)


def first_finding(case: Case, root: Path, seed: int, run: str) -> Finding:
    """Return what `prefloop diagnose` says first of the runs that were made with the fault, in their order.

    Raises TrainingError where it finds nothing.
    """
    judge = [r.name for r in record.runs(root) if r.manifest["stage"] == "reward"][:1]
    others = judge if "reward" in case.stages else []
    for diagnosis in diagnose_runs(root, [*others, run]):
        if diagnosis.alarms:
            return diagnosis.alarms[0]
    raise TrainingError(
        f"prefloop diagnose finds nothing wrong with {run} in {root} (seed {seed}), so that there is no remedy to "
        "apply. Try another --seed in another --out."
    )


def _runs(root: Path) -> list[str]:
    """Return the finished runs of `align`, oldest first."""
    return [r.name for r in record.runs(root) if r.manifest["stage"] == "align" and r.manifest["status"] == "done"]


def _measured(case: Case, out: Path, healthy: str, fault: str, after: str, quiet: bool) -> Mapping[str, Measured]:
    with Project.open(out / "healthy", quiet=quiet) as project:
        found = {"reference": measure(case, project, None), "healthy": measure(case, project, healthy)}
    with Project.open(out, quiet=quiet) as project:
        return found | {"fault": measure(case, project, fault), "after": measure(case, project, after)}


def _shown(case: Case, finding: Finding) -> CaseFinding:
    cause = finding.causes[0].id if finding.causes else ""
    return CaseFinding(
        run=finding.run,
        title=finding.title,
        cause=cause,
        severity=finding.severity,
        since=finding.since,
        confidence=round(finding.confidence, 3),
        broke=finding.broke,
        seen=tuple(symptom.said for symptom in finding.symptoms),
        said=finding.action.said,
        command=finding.action.command,
        named=cause == case.cause,
    )


def _say(quiet: bool, text: str) -> None:
    if not quiet:
        tqdm.write(text, file=sys.stderr)
