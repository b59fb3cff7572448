"""Which runs of a project to look at, and the one line that every stage says of its own run when something is wrong.

It reads run folders and nothing else, so that it knows what `prefloop diagnose` knows.
"""

from __future__ import annotations

import os
import shlex
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

from prefloop.diagnose.reading import read_run, run_folders
from prefloop.record import Run
from prefloop.results import RunFindings

SAMPLES = 2000  # answers that are looked at: a second at most, also after a run of many


def judged() -> set[str]:
    """Return the stages whose runs some rule looks at."""
    from prefloop.diagnose.registry import rules  # scipy takes half a second to load, and most commands do without it

    return {name for rule in rules() for name in rule.stages}


def newest(root: Path, stage: str | None = None) -> list[Path]:
    """Return the folder of the newest run of each stage, in each round and of each criterion, oldest first."""
    found: dict[tuple[str, int, str], Path] = {}
    stages = judged() & {stage} if stage else judged()
    for folder in run_folders(root):
        run = read_run(folder, samples=0)
        if run.stage in stages:
            found[run.stage, run.round, str(run.inputs.get("criterion") or run.result.get("criterion", ""))] = folder
    return list(found.values())


def findings(folder: Path) -> RunFindings | None:
    """Return what is wrong with a run, in short; None where nothing is, or only something to note."""
    from prefloop.diagnose.diagnosis import diagnose

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy warns of odd figures, which is what the rules are there for
        found = diagnose(read_run(folder, SAMPLES))
    if not found.alarms:
        return None
    return RunFindings(found.run, tuple(f.title for f in found.alarms), f"prefloop diagnose {found.run}{_at(folder)}")


def _at(folder: Path) -> str:
    """Return the option that names the project, where it is not the current folder."""
    root = folder.absolute().parent.parent
    if root == Path.cwd():
        return ""
    near = os.path.relpath(root)
    return f" -C {shlex.quote(str(root) if near.startswith('..') else near)}"


class Announcer:
    """Says in one line what is wrong with a run that has ended. It never breaks a stage: a rule may, and is named."""

    def __init__(self, say: Callable[[str], None]):
        self.say = say

    def logged(self, run: Run, step: int, values: Mapping[str, float]) -> None:
        """Wait for the end."""

    def ended(self, run: Run) -> None:
        try:
            if run.manifest["stage"] in judged() and (found := findings(run.path)):
                self.say(f"diagnosis: {found.sentence}")
        except Exception as error:  # noqa: BLE001 -- whatever a rule does, the stage has done its work
            self.say(f"diagnosis: {run.name} could not be diagnosed ({type(error).__name__}: {error})")
