"""Says in what runs differ: settings, data, versions, results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefloop.config import Config
from prefloop.config_problems import as_now, settings_of
from prefloop.diagnose.records import RunRecord
from prefloop.report.text import compact, without_password
from prefloop.web.watch.results import Fact, facts


def settings(run: RunRecord) -> dict[str, str]:
    """Return the settings of a run by their names of today, as text; a password in the store's address is left out."""
    try:
        found = settings_of(as_now(run.config, Config), Config)
    except (AttributeError, TypeError, KeyError):  # A damaged manifest; what it says is shown as it is.
        found = dict(run.config) if isinstance(run.config, Mapping) else {}
    return {key: without_password(said(value)) for key, value in sorted(found.items())}


def said(value: Any) -> str:
    """Return a value of a manifest as text."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return compact(value)
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} = {said(inner)}" for key, inner in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(said, value)) or "none"
    return str(value)


@dataclass(frozen=True)
class Row:
    """One line of a table: what it is, and each run's value."""

    name: str
    values: tuple[str, ...]


def differences(runs: Sequence[RunRecord]) -> dict[str, list[Row]]:
    """Return what differs, under "Settings", "Data and models" and "Versions"."""
    return {
        "Settings": _unlike([settings(run) for run in runs]),
        "Data and models": _unlike([{key: said(value) for key, value in run.inputs.items()} for run in runs]),
        "Versions": _unlike([_versions(run) for run in runs]),
    }


def _versions(run: RunRecord) -> dict[str, str]:
    found = run.manifest.get("versions")
    versions = {str(key): said(value) for key, value in found.items()} if isinstance(found, Mapping) else {}
    return versions | {key: said(run.manifest.get(key)) for key in ("git", "seed")}


def _unlike(found: Sequence[Mapping[str, str]]) -> list[Row]:
    keys = dict.fromkeys(key for one in found for key in one)
    rows = (Row(key, tuple(one.get(key, "–") for one in found)) for key in keys)
    return [row for row in rows if len(set(row.values)) > 1]


def results(runs: Sequence[RunRecord], evaluations: Sequence[RunRecord | None]) -> list[Row]:
    """Return the figures of the runs' results, with intervals, and of the evaluations of their policies."""
    tables = []
    for run, evaluation in zip(runs, evaluations, strict=True):
        found = {fact.label: _text(fact) for fact in facts(run)}
        if evaluation is not None and run.stage == "align":
            found |= {f"Evaluated: {fact.label.lower()}": _text(fact) for fact in facts(evaluation)}
        tables.append(found)
    keys = dict.fromkeys(key for one in tables for key in one)
    return [Row(key, tuple(one.get(key, "–") for one in tables)) for key in keys]


def _text(fact: Fact) -> str:
    return f"{fact.value} ({fact.interval})" if fact.interval else fact.value
