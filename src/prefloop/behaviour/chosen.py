"""The checks that `[behaviour]` asks for, with their bounds. A name that nobody knows is a ConfigError."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from prefloop.behaviour.guarded import Guarded
from prefloop.behaviour.registry import Check, Unit, Worse, built_in
from prefloop.config_behaviour import Behaviour
from prefloop.errors import ConfigError, suggest
from prefloop.messages import digest
from prefloop.user_functions import file_of


@dataclass(frozen=True)
class Chosen:
    """Checks and {check: the most that it may get worse by}.

    named: whether each bound was asked for by name. One number for all is no bound on what applies to no prompt.
    """

    checks: tuple[Check, ...]
    bounds: Mapping[str, float]
    named: bool = True

    @property
    def identity(self) -> str:
        """A hash of the checks and bounds that changes when a user's file does; empty for the usual ones."""
        if self.checks == tuple(built_in().values()) and not self.bounds:
            return ""
        said = [[c.name, c.worse, c.identity] for c in self.checks]
        return digest("behaviour", said, sorted(self.bounds.items()))


def chosen(settings: Behaviour, root: Path) -> Chosen:
    """Return the checks of the settings. root: the folder that the user's files are relative to."""
    known = dict(built_in()) | _of_patterns(settings) | _own(settings, root)
    _refuse_unknown("checks", settings.checks, known)
    _refuse_unknown("worse", settings.worse, known)
    directed = {name: replace(check, worse=settings.worse.get(name, check.worse)) for name, check in known.items()}
    names = dict.fromkeys(settings.checks or built_in())
    names |= dict.fromkeys(name for name in known if name not in built_in())
    if isinstance(settings.max_drop, float):
        shares = [n for n in names if directed[n].unit == "share" and directed[n].worse != "either"]
        bounds = dict.fromkeys(shares, settings.max_drop)
    else:
        bounds = dict(settings.max_drop)
        _refuse_unknown("max_drop", bounds, known)
    names |= dict.fromkeys(bounds)
    return Chosen(tuple(directed[name] for name in names), bounds, not isinstance(settings.max_drop, float))


def _refuse_unknown(setting: str, names: Sequence[str] | Mapping[str, object], known: Mapping[str, Check]) -> None:
    for name in names:
        if name not in known:
            own = ' Your own are named in functions, as "file.py:function".' if ":" in name else ""
            raise ConfigError(f'[behaviour] {setting}: there is no check "{name}".{suggest(name, list(known))}{own}')


def _of_patterns(settings: Behaviour) -> dict[str, Check]:
    """A check for `banned` and one for `required`, where there are patterns. A pattern may take for ever, too."""
    found: dict[str, Check] = {}
    for key, patterns, worse, meaning in (
        ("banned", settings.banned, "higher", "answers that match a pattern of [behaviour] banned"),
        ("required", settings.required, "lower", "patterns of [behaviour] required that an answer matches"),
    ):
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ConfigError(f"[behaviour] {key}: {pattern!r} is no regular expression: {error}") from None
        if patterns:
            guarded = Guarded({"patterns": patterns, "required": key == "required"}, settings.time_limit)
            name, direction = f"{key}_patterns", _worse(worse)
            identity = digest("patterns", list(patterns))
            found[name] = Check(name, "share", direction, meaning, guarded.measure, identity=identity)
    return found


def _own(settings: Behaviour, root: Path) -> dict[str, Check]:
    """The user's functions, by the name of the function. One may say `unit` and `worse` as attributes."""
    found: dict[str, Check] = {}
    for spec in settings.functions:
        if ":" not in spec:
            raise ConfigError(f'[behaviour] functions: "{spec}" is not of the form "file.py:function"')
        path, name = file_of(spec, root, "check")
        if name in found or name in built_in():
            raise ConfigError(f'[behaviour] functions: there is another check called "{name}": rename {spec}')
        guarded = Guarded({"source": spec, "root": str(root)}, settings.time_limit)
        said = guarded.attributes()
        unit: Unit = said["unit"] if said["unit"] in get_args(Unit) else "value"
        identity = digest(spec, path.read_text(encoding="utf-8"))
        worse = _worse(said["worse"])
        found[name] = Check(name, unit, worse, f"your function {spec}", guarded.measure, identity=identity)
    return found


def _worse(said: object) -> Worse:
    return next((worse for worse in get_args(Worse) if worse == said), "lower")
