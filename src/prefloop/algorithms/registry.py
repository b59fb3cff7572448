"""Algorithms by name, and their options checked. Adding one: its file, a line here, a page in docs/algorithms/."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from prefloop.config import suggest
from prefloop.errors import ConfigError

Kind = Literal["supervised", "reward", "offline", "online"]

ALGORITHMS: dict[str, tuple[Kind, str]] = {
    "sft": ("supervised", "prefloop.algorithms.sft:Sft"),
    "bradley_terry": ("reward", "prefloop.algorithms.bradley_terry:BradleyTerry"),
    "plackett_luce": ("reward", "prefloop.algorithms.plackett_luce:PlackettLuce"),
    "dpo": ("offline", "prefloop.algorithms.dpo:Dpo"),
    "ppo": ("online", "prefloop.algorithms.ppo:Ppo"),
    "grpo": ("online", "prefloop.algorithms.grpo:Grpo"),
    "rloo": ("online", "prefloop.algorithms.rloo:Rloo"),
}

FIXED = ("trains", "needs")  # fields for the engine, not options


def names(*kinds: Kind) -> list[str]:
    return [name for name, (kind, _) in ALGORITHMS.items() if not kinds or kind in kinds]


def kind_of(name: str, *allowed: Kind) -> Kind:
    """The kind of a named algorithm. Raises ConfigError for an unknown name, or one of a kind not allowed here."""
    if name not in ALGORITHMS or (allowed and ALGORITHMS[name][0] not in allowed):
        raise ConfigError(f'There is no algorithm "{name}" here.{suggest(name, names(*allowed))}')
    return ALGORITHMS[name][0]


def make(name: str, options: Mapping[str, Any] | None = None) -> Any:
    """The algorithm with its options. Raises ConfigError for an unknown option (with the nearest right one)."""
    kind_of(name)
    module, cls_name = ALGORITHMS[name][1].split(":")
    cls = getattr(import_module(module), cls_name)
    known = [f for f in cls.__dataclass_fields__ if f not in FIXED]
    for key in options or {}:
        if key not in known:
            raise ConfigError(f'[algorithms.{name}] has no option "{key}".{suggest(key, known)}')
    try:
        checked = TypeAdapter(cls).validate_python(dict(options or {}))
    except ValidationError as error:
        problems = "; ".join(f"{e['loc'][0]}: {e['msg']} (got {e['input']!r})" for e in error.errors())
        raise ConfigError(f"[algorithms.{name}] {problems}") from None
    return checked


def options_of(algorithm: Any) -> dict[str, Any]:
    """An algorithm's options as plain values; `make(name, options_of(a))` equals `a`."""
    return {f: getattr(algorithm, f) for f in algorithm.__dataclass_fields__ if f not in FIXED}
