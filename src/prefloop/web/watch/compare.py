"""Says in what runs differ: settings, data, versions, results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefloop.config import Config
from prefloop.config_problems import as_now, settings_of
from prefloop.diagnose.records import RunRecord
from prefloop.report.text import compact, without_password


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
