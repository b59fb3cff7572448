"""`prefloop export`: models and data to where they are needed; whole or not at all. Loads no model."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from prefloop import exchange
from prefloop.config import suggest
from prefloop.errors import DataError, NothingToDoError
from prefloop.stages.project import Outcome, Project
from prefloop.store import ModelRow
from prefloop.types import Item

_RANKED: dict[str, Callable[[Iterable[Item], Path], int]] = {
    "rankings": exchange.write_rankings,
    "pairs": exchange.write_pairs,
    "kto": exchange.write_kto,
}
WHAT = ("policy", "reward", *_RANKED, "demonstrations", "prompts")


def export(
    project: Project,
    what: str,
    to: Path,
    criterion: str | None = None,
    round: int | None = None,
    overwrite: bool = False,
) -> Outcome:
    """Write one of WHAT to `to`. Raises NothingToDoError where there is none, DataError where `to` exists."""
    if what not in WHAT:
        raise DataError(f'cannot export "{what}".{suggest(what, WHAT)}')
    if what in ("policy", "demonstrations", "prompts") and criterion is not None:
        raise DataError(f"--criterion does not apply to {what}: it chooses among reward models and rankings")
    if (to.is_file() or to.is_symlink() or (to.is_dir() and any(to.iterdir()))) and not overwrite:
        raise DataError(f"{to} exists already. Choose another name, or say --overwrite.")
    if what in ("policy", "reward"):
        rows = [_policy(project, round)] if what == "policy" else _rewards(project, criterion, round)
        return Outcome("export", None, {"what": what, "to": str(to), **_export_models(project, rows, to)})
    to.parent.mkdir(parents=True, exist_ok=True)
    return Outcome("export", None, {"what": what, "to": str(to), "rows": _export_data(project, what, to, criterion)})


def _policy(project: Project, round: int | None) -> ModelRow:
    """The aligned policy of a round, or the newest policy there is."""
    if round is not None:
        row = project.aligned(round)
        if row is None:
            raise NothingToDoError(f"round {round} has no aligned policy yet: run prefloop align first")
        return row
    newest = project.store.latest_model("policy")
    if newest is None:
        raise NothingToDoError("no policy has been trained yet: run prefloop sft or prefloop align first")
    return newest


def _rewards(project: Project, criterion: str | None, round: int | None) -> list[ModelRow]:
    """The newest reward model of each criterion, or of one."""
    newest = {
        row.criterion or "": row
        for row in project.store.models("reward")
        if round is None or row.metrics.get("round") == round
    }
    if not newest:
        where = "" if round is None else f" in round {round}"
        raise NothingToDoError(f"there is no reward model{where} yet: run prefloop reward first")
    if criterion is None:
        return list(newest.values())
    if criterion not in newest:
        raise DataError(f'there is no reward model for "{criterion}".{suggest(criterion, list(newest))}')
    return [newest[criterion]]


def _export_models(project: Project, rows: list[ModelRow], to: Path) -> dict[str, Any]:
    """One model: `to` is its folder. Several: a folder each inside `to`."""
    from prefloop.engine.checkpoint import publish

    folders = {row.version: to if len(rows) == 1 else to / _folder_name(row.criterion or row.version) for row in rows}
    for row in rows:
        source = project.root / row.path
        if not source.is_dir():
            raise DataError(f"{source} is gone, so {row.version} cannot be exported. Run the stage that made it again.")

        def write(tmp: Path, source: Path = source) -> None:
            shutil.copytree(source, tmp, dirs_exist_ok=True)

        publish(folders[row.version], write)
    return {
        "models": [
            {
                "version": row.version,
                "criterion": row.criterion,
                "round": row.metrics.get("round"),
                "folder": str(folders[row.version]),
            }
            for row in rows
        ]
    }


def _folder_name(criterion: str) -> str:
    """A criterion may be called anything; a folder may not."""
    return re.sub(r"[^\w.-]+", "_", criterion).strip(".") or "reward"


def _export_data(project: Project, what: str, to: Path, criterion: str | None) -> int:
    store = project.store
    if what == "prompts":
        if prompts := store.prompts():
            return exchange.write_prompts(prompts, to)
        raise NothingToDoError("there are no prompts yet: run prefloop import FILE")
    if what == "demonstrations":
        if shown := store.demonstrations():
            return exchange.write_demonstrations(shown, to)
        raise NothingToDoError("there are no demonstrations yet: import a file with prompt and completion")
    known = store.criteria()
    if criterion is not None and criterion not in known:
        raise DataError(f'nobody has ranked by "{criterion}".{suggest(criterion, list(known))}')
    if not known and what != "rankings":
        raise NothingToDoError("there are no rankings yet: import a file of rankings or pairs, or run prefloop crowd")
    # rankings: also what nobody has ranked yet, so that people elsewhere can
    ranked = None if what == "rankings" and criterion is None else True
    items = store.items(criterion=criterion, ranked=ranked)
    if not known and next(iter(items), None) is None:
        raise NothingToDoError("there is nothing ranked or sampled yet: run prefloop sample, or import rankings")
    return _RANKED[what](store.items(criterion=criterion, ranked=ranked), to)
