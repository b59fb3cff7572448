"""Gather what a project's runs and store say into one plain dict: report.json. Reads run folders, nothing else.

project     name, seed, settings of the newest run
store       what the caller found in the store (see `StoreFacts`)
stages      {stage: [the run of each round that counts, and of each criterion for reward], by round}
runs_of_align  every run of align, see `report.runs`
runs        every run: stage, status, seconds, how time was spent
diagnosis   {run: what `prefloop diagnose RUN --json` says of it}, of every run that a rule could be asked of
demo        demo.json, where there is one
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from prefloop.config import Config
from prefloop.config_problems import as_now
from prefloop.diagnose.diagnosis import diagnose
from prefloop.diagnose.reading import read_run
from prefloop.errors import DataError
from prefloop.record import Run
from prefloop.report.runs import align_runs
from prefloop.report.text import without_password

FORMAT = 1
# These fields tell runs of a stage apart, beside the stage.
_PART_OF = {"reward": ("round", "criterion"), "sft": (), "crowd": ()}


@dataclass(frozen=True)
class StoreFacts:
    """Holds what the report needs from the store, in plain types.

    counts:    as `Store.counts`;  prompts: {"train", "heldout"}
    rounds:    one dict a round: round, items, completions, rankings, simulated, annotators, criteria
    agreement: {criterion: `labels.agreement.Agreement` as a dict}
    imports:   files read;  models: what was trained, from what, on which snapshot
    """

    counts: Mapping[str, Any] = field(default_factory=dict)
    prompts: Mapping[str, int] = field(default_factory=dict)
    rounds: Sequence[Mapping[str, Any]] = ()
    agreement: Mapping[str, Any] = field(default_factory=dict)
    imports: Sequence[Mapping[str, Any]] = ()
    models: Sequence[Mapping[str, Any]] = ()


def collect(
    name: str,
    runs: Sequence[Run],
    store: StoreFacts,
    demo: Mapping[str, Any] | None = None,
    chosen: Mapping[int, str | None] | None = None,
    policies: Mapping[int, str] | None = None,
) -> dict[str, Any]:
    """Return Everything the page shows, finite and JSON-able: NaN and infinities become None.

    chosen, policies: by round, the run of `align` that counts, and the policy after it (where no run made a policy,
    `chosen` is None and the policy an earlier one). Without them the newest run counts.
    """
    gathered = [_gather(run) for run in runs]
    wanted: set[tuple[str, Any]] = {("align", run) for run in (chosen or {}).values()}
    wanted |= {("evaluate", (round, policy)) for round, policy in (policies or {}).items()}
    stages: dict[str, list[dict[str, Any]]] = {}
    for stage in dict.fromkeys(g["stage"] for g in gathered):
        stages[stage] = _newest([g for g in gathered if g["stage"] == stage], stage, wanted)
    newest = max(gathered, key=lambda g: g["started_at"], default=None)
    facts = {
        "format": FORMAT,
        "project": {
            "name": name,
            "seed": newest["seed"] if newest else None,
            "config": newest["config"] if newest else {},
            "versions": newest["versions"] if newest else {},
            "git": newest["git"] if newest else None,
        },
        "store": asdict(store),
        "stages": stages,
        "runs_of_align": align_runs(gathered, chosen or {}),
        "runs": [_brief(g) for g in sorted(gathered, key=lambda g: g["started_at"])],
        "diagnosis": {run.name: found for run in runs if (found := diagnose(read_run(run.path)).to_json())["asked"]},
        "demo": dict(demo) if demo else None,
    }
    plain: dict[str, Any] = _finite(facts)
    return plain


def read_demo(path: Path) -> dict[str, Any] | None:
    """demo.json of a project; None where there is none. Raises DataError where it is not a JSON object."""
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}). Run prefloop demo again, or remove the file.") from None
    if not isinstance(value, dict):
        raise DataError(f"{path} is not a JSON object. Run prefloop demo again, or remove the file.")
    return value


def _gather(run: Run) -> dict[str, Any]:
    manifest = run.manifest
    timings = _timings(run.path / "timings.jsonl")
    return {
        "run": run.name,
        "stage": manifest["stage"],
        "status": manifest["status"],
        "reason": manifest.get("reason"),
        "round": run.result.get("round", manifest["inputs"].get("round", 0)),
        "criterion": run.result.get("criterion", manifest["inputs"].get("criterion")),
        "started_at": manifest["started_at"],
        "seconds": _between(manifest["started_at"], manifest.get("finished_at")),
        "resumed": "resumed_at" in manifest,
        "timings": timings,
        "seed": manifest.get("seed"),
        "versions": manifest.get("versions", {}),
        "git": manifest.get("git"),
        "inputs": manifest["inputs"],
        "config": as_now(_redacted(manifest["config"]), Config),
        "result": run.result,
        "metrics": columns(run.metrics()),
    }


def _newest(runs: Sequence[dict[str, Any]], stage: str, wanted: Set[tuple[str, Any]]) -> list[dict[str, Any]]:
    """Return the run of each round that counts, else the newest finished one.

    Where none has finished, it is the newest one that at least logged something.
    """
    best: dict[tuple[Any, ...], dict[str, Any]] = {}

    def counts(run: Mapping[str, Any]) -> bool:
        is_it = run["run"] if stage == "align" else (run["round"], run["result"].get("policy"))
        return run["status"] == "done" and (stage, is_it) in wanted

    for run in runs:
        key = tuple(run[name] for name in _PART_OF.get(stage, ("round",)))
        if key in best and counts(best[key]) and not counts(run):
            continue
        if run["status"] == "done" or (run["metrics"]["step"] and best.get(key, {}).get("status") != "done"):
            best[key] = run
    return sorted(best.values(), key=lambda run: (run["round"], str(run["criterion"])))


def last(facts: Mapping[str, Any], stage: str) -> Mapping[str, Any] | None:
    """Return the run of a stage in its newest round."""
    runs = facts["stages"].get(stage)
    return runs[-1] if runs else None


def of_round(facts: Mapping[str, Any], stage: str, round: int) -> Mapping[str, Any] | None:
    """Return the run of a stage in one round."""
    return next((run for run in facts["stages"].get(stage, ()) if run["round"] == round), None)


def columns(lines: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return lines of metrics.jsonl as columns of equal length; None where a step logged no finite number of a metric.

    Lines that are not of metrics, in a damaged file, are left out.
    """
    rows = [row for row in lines if isinstance(row, Mapping) and isinstance(row.get("step"), int)]
    names = sorted({name for row in rows for name in row} - {"step"})
    return {"step": [row["step"] for row in rows], **{name: [_number(row.get(name)) for row in rows] for name in names}}


def _number(value: object) -> float | None:
    return value if isinstance(value, (int, float)) and math.isfinite(value) else None


def points(metrics: Mapping[str, Sequence[Any]], name: str) -> tuple[list[float], list[float]]:
    """Return (steps, values) of a metric where it is a number."""
    pairs = [(s, v) for s, v in zip(metrics["step"], metrics.get(name, ()), strict=False) if v is not None]
    return [float(s) for s, _ in pairs], [float(v) for _, v in pairs]


def _timings(path: Path) -> dict[str, float]:
    """Seconds by part, summed over steps. A torn last line is left out."""
    total: dict[str, float] = {}
    if path.exists():
        for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                break
            for name, value in line.items():
                if name != "step":
                    total[name] = total.get(name, 0.0) + float(value)
    return {name: round(value, 4) for name, value in total.items()}


def _between(start: str, end: str | None) -> float | None:
    if end is None:
        return None
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


def _brief(run: Mapping[str, Any]) -> dict[str, Any]:
    kept = (
        "run",
        "stage",
        "status",
        "reason",
        "round",
        "criterion",
        "started_at",
        "seconds",
        "resumed",
        "timings",
        "git",
    )
    return {name: run[name] for name in kept}


def _redacted(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without the password that a store's URL may hold."""
    project = dict(config.get("project", {}))
    if "store" in project:
        project["store"] = without_password(str(project["store"]))
    return {**config, "project": project}


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(child) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(child) for child in value]
    return value
