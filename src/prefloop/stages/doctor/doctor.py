"""Runs `prefloop doctor`: is the machine, the project, the model fit? It reads everything and changes nothing.

Each check is a function that yields a `Check`, in the file of its subject: `machine.py` needs no project, `contents.py`
loads no model, `invariants.py` tries the project's own models.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prefloop.config import CONFIG_NAME, load_config
from prefloop.errors import PrefloopError
from prefloop.project.project import Project
from prefloop.stages.doctor.base import Check, guarded
from prefloop.stages.doctor.contents import contents, reward_models, run_folders
from prefloop.stages.doctor.machine import machine
from prefloop.stages.doctor.scorer import NAME, reward_function
from prefloop.store import Store


def doctor(root: Path | None, overrides: Sequence[str] = (), with_model: bool = True) -> list[Check]:
    """Check the machine and, with a `root`, the project and its models. It never raises for what it finds."""
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
        if project.config.align.reward:
            checks.append(guarded(NAME, lambda: reward_function(project)))
        if with_model:
            from prefloop.stages.doctor.invariants import invariants

            checks += invariants(project)
    return checks
