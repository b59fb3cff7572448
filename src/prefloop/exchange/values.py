"""Replaces values that JSON cannot hold (`base.Unrepresentable`) in the metadata of a record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from prefloop.exchange.base import Unrepresentable
from prefloop.types import Demonstration, Item, Prompt


def first_unrepresentable(value: object) -> Unrepresentable | None:
    """Return an odd value anywhere inside, or None."""
    if isinstance(value, Unrepresentable):
        return value
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((found for inner in inside if (found := first_unrepresentable(inner)) is not None), None)


def representable(result: Any) -> Any:
    """Return a prompt, demonstration or item whose metadata JSON can hold."""
    changed: dict[str, Any] = {}
    if first_unrepresentable(dict(result.metadata)):
        changed["metadata"] = _kept(dict(result.metadata))
    if isinstance(result, Demonstration | Item):
        changed |= _changed("prompt", result.prompt)
    if isinstance(result, Item):
        for name in ("completions", "rankings"):
            changed |= _changed(name, getattr(result, name))
    return replace(result, **changed) if changed else result


def _changed(name: str, value: Any) -> dict[str, Any]:
    """Return {name: the value without odd parts}; empty if there are no odd parts."""
    if isinstance(value, Prompt):
        new: Any = representable(value)
    else:
        new = tuple(_part(part) for part in value)
        new = value if all(a is b for a, b in zip(new, value, strict=True)) else new
    return {} if new is value else {name: new}


def _part(part: Any) -> Any:
    """Return a completion or a ranking without odd values."""
    found = {name: value for name in ("metadata", "sampling") if (value := getattr(part, name, None))}
    odd = {name: _kept(value) for name, value in found.items() if first_unrepresentable(dict(value))}
    return replace(part, **odd) if odd else part


def _kept(value: Any) -> Any:
    if isinstance(value, Unrepresentable):
        return value.kept
    if isinstance(value, Mapping):
        return {name: _kept(inner) for name, inner in value.items()}
    return [_kept(inner) for inner in value] if isinstance(value, list | tuple) else value
