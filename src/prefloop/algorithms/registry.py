"""Finds algorithms by name, and checks their options. `prefloop.known_algorithms` lists the names.

A program that uses prefloop adds its own with `register`; those are known as long as the process lives.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from importlib import import_module
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from prefloop.errors import ConfigError, suggest
from prefloop.known_algorithms import ALGORITHMS, Kind, Known, known, registered
from prefloop.known_algorithms import names as names
from prefloop.source import source_hash

FIXED = ("trains", "needs")  # The engine reads these where a class has them as fields; they are no options.


_ASKED: dict[str, tuple[str, ...]] = {
    "online": ("trains", "needs", "min_k", "credit", "weight", "loss", "adapt"),
    "offline": ("trains", "weight", "loss"),
    "reward": ("trains", "weight", "loss"),
}
_Class = TypeVar("_Class", bound=type)


def register(algorithm: _Class, kind: Literal["online", "offline", "reward"] = "online") -> _Class:
    """Make an algorithm of your own known by its `name`; also a decorator, above `@dataclass(frozen=True)`.

    kind: "online" learns from the policy's own samples, "offline" from rankings, "reward" is an objective of reward
    models. Registering a name again replaces what was registered. Raises ConfigError for the name of a built-in
    algorithm, and for a class that is no frozen dataclass or lacks what its kind has.
    """
    name = getattr(algorithm, "name", None)
    if not isinstance(name, str) or not name:
        raise ConfigError(f'{algorithm.__qualname__} cannot be registered: give it a name, as in: name = "mine"')
    if name in ALGORITHMS:
        raise ConfigError(f'"{name}" is the name of a built-in algorithm. Give {algorithm.__qualname__} another name.')
    if not dataclasses.is_dataclass(algorithm) or not algorithm.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise ConfigError(f"{algorithm.__qualname__} cannot be registered: write @dataclass(frozen=True) above it")
    if missing := [part for part in _ASKED[kind] if not hasattr(algorithm, part)]:
        raise ConfigError(
            f"{algorithm.__qualname__} cannot be registered as {kind}: it has no {', '.join(missing)}. What each is "
            "for stands in prefloop.algorithms.base."
        )
    registered[name] = Known(kind, algorithm, critic="critic" in algorithm.trains)  # type: ignore[attr-defined]
    return algorithm


def code_of(name: str) -> dict[str, str]:
    """Return {"algorithm": hash of its source} of one that was registered; {} of a built-in one.

    It is an input of a run.
    """
    return {"algorithm": source_hash(registered[name].where)} if name in registered else {}


def kind_of(name: str, *allowed: Kind) -> Kind:
    """Return the kind of a named algorithm.

    Raises ConfigError for an unknown name, or one of a kind not allowed here.
    """
    found = known(name)
    if found is None or name not in names(*allowed):
        raise ConfigError(f'There is no algorithm "{name}" here.{suggest(name, names(*allowed))}')
    return found.kind


def class_of(name: str) -> Any:
    found = known(name)
    assert found is not None  # `kind_of` was asked before
    if not isinstance(found.where, str):
        return found.where
    module, cls_name = found.where.split(":")
    return getattr(import_module(module), cls_name)


def make(name: str, options: Mapping[str, Any] | None = None) -> Any:
    """Return the algorithm with its options. Raises ConfigError for an unknown option (with the nearest right one)."""
    kind_of(name)
    cls = class_of(name)
    known = [f.name for f in dataclasses.fields(cls) if f.name not in FIXED]
    for key in options or {}:
        if key not in known:
            raise ConfigError(f'[algorithms.{name}] has no option "{key}".{suggest(key, known)}')
    try:
        checked = TypeAdapter(cls).validate_python(dict(options or {}))
    except ValidationError as error:
        problems = "; ".join(_problem(e) for e in error.errors())
        raise ConfigError(f"[algorithms.{name}] {problems}") from None
    return checked


def _problem(error: Any) -> str:
    """Say what is wrong with one option, or with several together (what `__post_init__` of an algorithm raises)."""
    if not error["loc"]:
        return str(error["msg"]).removeprefix("Value error, ")
    return f"{error['loc'][0]}: {error['msg']} (got {error['input']!r})"


def options_of(algorithm: Any) -> dict[str, Any]:
    """Return an algorithm's options as plain values; `make(name, options_of(a))` equals `a`."""
    return {f.name: getattr(algorithm, f.name) for f in dataclasses.fields(algorithm) if f.name not in FIXED}
