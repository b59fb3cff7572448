"""Writes TOML: single values, and files in which some settings change. (Python itself only reads TOML.)"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from typing import Any

import tomlkit

from prefloop.config import apply_override


def toml(value: Any) -> str:
    """Return a value on one line. TOML has no None, which is shown as (none)."""
    return "(none)" if value is None else item(value).as_string()


def item(value: Any) -> Any:
    """Return a value of a setting as tomlkit writes it: on one line, with a mapping as an inline table."""
    if isinstance(value, dict):
        table = tomlkit.inline_table()
        for name, inner in value.items():
            table.append(name, item(inner))
        return table
    if isinstance(value, list | tuple):
        array = tomlkit.array()
        for inner in value:
            array.append(item(inner))
        return array
    return tomlkit.item(value)


def with_overrides(text: str, overrides: Iterable[str]) -> str:
    """Return a TOML file with `section.key=value` settings changed or added; everything else stays, comments too."""
    document = tomlkit.parse(text)
    for override in overrides:
        apply_override(document, override)
    return tomlkit.dumps(document)


def default_of(text: str) -> Any:
    """Return the value behind a default as `config_problems.describe` gives it."""
    return ast.literal_eval(text)
