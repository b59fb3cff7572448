"""The small world of all cases: the demo's support desk, sampled, ranked, with a reward model, and aligned once.

    BASE/sampled    the demo's model and prompts, and four answers to each of 250 prompts
    BASE/rewarded   the same, ranked by the demo's crowd, with a reward model
    BASE/healthy    the same, with a policy

Each is a project, copied from the one before it. What is there stays, so that an interrupted command goes on. The model
in `cases/model` is an earlier one of the demo's: its reward models can't tell whether an answer offers the right step,
so that there is something to lead astray. The casebook's figures are of that model.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from prefloop import record
from prefloop.config import CONFIG_NAME
from prefloop.demo.run import make_projects
from prefloop.project.project import Project
from prefloop.project.toml import with_overrides
from prefloop.stages.align import align
from prefloop.stages.crowd import crowd
from prefloop.stages.sample import sample
from prefloop.stages.train_reward import reward

Kind = Literal["sampled", "rewarded", "healthy"]
MODEL = "prefloop.cases"
SETTINGS = (
    "project.threads=1",  # the number of threads is part of what makes a run repeatable
    "sample.prompts=250",
    "align.steps=14",
    "align.checkpoint_every=7",
    "align.evaluation.eval_every=7",
    "run.rounds=1",
)
_MADE: dict[Kind, tuple[Kind | None, tuple[str, ...]]] = {
    "sampled": (None, ("sample",)),
    "rewarded": ("sampled", ("crowd", "reward")),
    "healthy": ("rewarded", ("align",)),
}


def world(base: Path, kind: Kind, seed: int, quiet: bool = False) -> Path:
    """Return the folder of a project of the world, made if it is not there."""
    done = base / kind
    if done.exists():
        return done
    before, stages = _MADE[kind]
    unfinished = base / f".{kind}.new"
    if before is not None:
        copied(world(base, before, seed, quiet), unfinished)
    elif not (unfinished / CONFIG_NAME).exists():
        make_projects(unfinished, seed, MODEL)
        shutil.rmtree(unfinished / "imitation")
        change(unfinished, ["project.name=case", *SETTINGS])
    run_stages(unfinished, stages, quiet=quiet)
    unfinished.rename(done)
    return done


def copied(project: Path, to: Path) -> Path:
    """Copy a project folder; what is there stays."""
    if not to.exists():
        aside = to.with_name(f"{to.name}.copy")
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(project, aside)
        aside.rename(to)
    return to


def change(project: Path, overrides: Sequence[str]) -> None:
    """Change settings in the file of a project."""
    path = project / CONFIG_NAME
    record.write_atomic(path, with_overrides(path.read_text(encoding="utf-8"), overrides).encode())


def run_stages(
    root: Path, stages: Sequence[str], overrides: Sequence[str] = (), quiet: bool = False, round: int | None = None
) -> None:
    """Run stages of the loop, as their commands do. What was done before is skipped. round: as their --round."""
    with Project.open(root, overrides, quiet=quiet) as project:
        for stage in stages:
            if stage == "sample":
                sample(project, round)
            elif stage == "crowd":
                crowd(project)
            elif stage == "reward":
                reward(project, round)
            else:
                align(project, round)
