"""Turns settings that a program gives into those of the command line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from prefloop.config import Config
from prefloop.config_problems import places
from prefloop.project.toml import toml

Settings = Mapping[str, Any] | Iterable[str]


def setting_key(section: str, name: str) -> str:
    """Return the dotted key of a setting that a call names: k of align is "align.rollout.k"."""
    return next(iter(places(Config, section, name)), f"{section}.{name}")


def as_overrides(settings: Settings) -> list[str]:
    """Return settings as the command line gives them: "align.steps=20" for {"align.steps": 20}. None is left out."""
    if isinstance(settings, Mapping):
        return [f"{key}={toml(value)}" for key, value in settings.items() if value is not None]
    return list(settings)
