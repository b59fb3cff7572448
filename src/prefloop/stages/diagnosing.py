"""`prefloop diagnose`: reads run folders and says what went wrong in them. It needs neither the store nor a model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from prefloop.diagnose.diagnosis import Diagnosis, diagnose
from prefloop.diagnose.reading import read_run, run_folders
from prefloop.errors import ConfigError, NothingToDoError, suggest
from prefloop.project.diagnosing import judged, newest


def diagnose_runs(root: Path, names: Sequence[str] = (), stage: str | None = None) -> list[Diagnosis]:
    """Return the diagnosis of runs by name or folder; without names, of the newest run of each stage in each round.

    Raises ConfigError for a run or a stage that is not there, NothingToDoError for a project without runs.
    """
    folders = {folder.name: folder for folder in run_folders(root)}
    if names:
        return [diagnose(read_run(_folder(name, folders))) for name in names]
    if stage is not None and stage not in judged():
        raise ConfigError(f'no rule looks at runs of "{stage}". Stages: {", ".join(sorted(judged()))}')
    found = newest(root, stage)
    if not found:
        raise NothingToDoError(
            f"there is nothing to diagnose in {root / 'runs'} yet: a run of reward or align makes it"
        )
    return [diagnose(read_run(folder)) for folder in found]


def _folder(name: str, known: dict[str, Path]) -> Path:
    if name in known:
        return known[name]
    path = Path(name)
    if (path / "manifest.json").is_file() or (path / "metrics.jsonl").is_file():
        return path
    if path.is_dir():
        raise ConfigError(f"{path} is no run folder: it has neither manifest.json nor metrics.jsonl")
    raise ConfigError(f"there is no run {json.dumps(name)}.{suggest(name, list(known))}")
