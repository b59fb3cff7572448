"""Reads a run folder into a record. It needs the folder alone, so that a run copied from elsewhere is read as well.

manifest.json, metrics.jsonl, timings.jsonl, result.json   as `prefloop.record` writes them
evidence.json                                              what the stage knew of people, data, models (see `Evidence`)
samples.jsonl                                              answers with their rewards, by step
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final, TypeVar

from prefloop import process
from prefloop.diagnose.records import Annotator, Data, RunRecord, Sample, Series, last_step, read_series
from prefloop.types import digest

SAMPLES = 20_000  # samples of a run that are kept at most, evenly over its prompts
STOPPED: Final = "stopped half-way"  # what a run is that a process began, and left without a word
_Record = TypeVar("_Record")


def read_run(folder: Path, samples: int = SAMPLES) -> RunRecord:
    """Return the record of a run folder. A missing or damaged file leaves its part empty; `problems` names it.

    samples: how many are kept at most, evenly over the prompts; with 0 their file is not read
    """
    problems: list[str] = []
    manifest = _object(folder / "manifest.json", problems, needed=True)
    result = _object(folder / "result.json", problems)
    evidence = _object(folder / "evidence.json", problems)
    metrics, torn = read_series(folder / "metrics.jsonl")
    seconds, _ = read_series(folder / "timings.jsonl")
    problems += torn
    if manifest.get("status") == "done":
        problems += _lost(folder, result, metrics)
    inputs = _mapping(manifest.get("inputs"))
    return RunRecord(
        name=folder.name,
        stage=str(manifest.get("stage") or folder.name.rpartition("-")[0]),
        status=_status(manifest),
        round=_int(result.get("round", inputs.get("round"))),
        config=_mapping(manifest.get("config")),
        inputs=inputs,
        manifest=manifest,
        result=result,
        metrics=metrics,
        seconds=seconds,
        checks=[c for c in _list(evidence.get("checks")) if isinstance(c, dict)],
        samples=_samples(folder / "samples.jsonl", samples, problems) if samples else (),
        people=[p for row in _list(evidence.get("people")) if (p := _as(Annotator, row))],
        data=_as(Data, evidence.get("data")),
        judges={k: v for k, v in _mapping(evidence.get("judges")).items() if isinstance(v, dict)},
        ends=ends if isinstance(ends := evidence.get("ends"), bool) else None,
        problems=tuple(problems),
    )


def _lost(folder: Path, result: Mapping[str, Any], metrics: Mapping[str, Series]) -> list[str]:
    """What a run that is done must have left, and has not."""
    if not result:  # A damaged one was named when it was read.
        return [] if (folder / "result.json").exists() else ["there is no result.json, although the run is done"]
    steps, logged = _int(result.get("steps")), last_step(metrics)
    return [f"metrics.jsonl ends at step {logged}, although the run made {steps}"] if logged < steps else []


def _status(manifest: Mapping[str, Any]) -> str:
    """Return the run's own word, unless it says "running" and its process is known to have gone."""
    status = str(manifest.get("status", "unknown"))
    return STOPPED if status == "running" and process.runs(manifest.get("process")) is False else status


def run_folders(root: Path) -> list[Path]:
    """Return the run folders of a project, oldest first."""
    return sorted((m.parent for m in (root / "runs").glob("*/manifest.json")), key=_began)


def _began(folder: Path) -> tuple[str, str]:
    try:
        return str(
            json.loads((folder / "manifest.json").read_text(encoding="utf-8")).get("started_at", "")
        ), folder.name
    except (OSError, ValueError, AttributeError):
        return "", folder.name


def _object(path: Path, problems: list[str], needed: bool = False) -> Mapping[str, Any]:
    if not path.is_file():
        if needed:
            problems.append(f"{path.name} is missing")
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        problems.append(f"{path.name} cannot be read ({error})")
        return {}
    if not isinstance(value, dict):
        problems.append(f"{path.name} is not a JSON object")
        return {}
    return value


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _as(kind: type[_Record], row: Any) -> _Record | None:
    """Return a frozen record of a JSON object; None where a field that it needs is missing."""
    if not isinstance(row, dict):
        return None
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in row.items() if k in known}
    try:
        return kind(**values)
    except TypeError:
        return None


def _samples(path: Path, most: int, problems: list[str]) -> list[Sample]:
    if not path.is_file():
        return []
    found: list[Sample] = []
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, text in enumerate(lines, 1):
            sample = _sample(text)
            if sample is None:
                problems.append(f"{path.name}, line {number} is no sample and is left out")
            else:
                found.append(sample)
    every = -(-len(found) // most)
    return list(_thinned(found, every)) if every > 1 else found


def _sample(text: str) -> Sample | None:
    try:
        row = json.loads(text)
        kl = row.get("kl")
        return Sample(
            step=int(row["step"]),
            prompt=str(row["prompt"]),
            text=str(row["text"]),
            reward=float(row["reward"]),
            length=int(row["length"]),
            ended=bool(row["ended"]),
            kl=None if kl is None else float(kl),
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _thinned(samples: Iterable[Sample], every: int) -> Iterable[Sample]:
    """Return every n-th prompt's samples, whole: what is compared within a prompt stays together."""
    for sample in samples:
        if int(digest(sample.prompt), 16) % every == 0:
            yield sample


def _int(value: Any) -> int:
    try:
        return int(value or 0)
    except (TypeError, ValueError):
        return 0
