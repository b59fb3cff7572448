"""The base of all results, and the one place that turns them into JSON and reads them back.

A field without a default is always written, with null for None. A field whose default is None is written only where it
has a value. A `flat` field holds several figures that stand beside the others in the file, not in a table of their own.

Reading is tolerant, since a run folder may be of another version: a field that the file lacks has its default, or
else is None, and what the file has beside the fields is left out.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar, Union, get_args, get_origin, get_type_hints

_Made = TypeVar("_Made")
_KNOWN: dict[type, dict[str, Any]] = {}  # annotations, by dataclass


def flat() -> Any:
    """A field whose figures stand beside the others in the file, or are all absent."""
    return field(default=None, metadata={"flat": True})


def _apart(default: Any) -> Any:
    """A field that says how the result came to be. It is no part of `result.json`."""
    return field(default=default, metadata={"apart": True})


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a stage found. run: the name of its run folder, where it has one.

    skipped: the same inputs had been through the stage before, and its result was kept.
    """

    stage: ClassVar[str]

    run: str | None = _apart(None)
    skipped: bool = _apart(False)

    def figures(self) -> dict[str, Any]:
        """What `result.json` holds."""
        return to_json(self)

    def to_json(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {"stage": self.stage, "run": self.run, "skipped": self.skipped, **self.figures()}

    @classmethod
    def read(cls, found: Mapping[str, Any], run: str | None = None, skipped: bool = False) -> Self | None:
        """A result from what `result.json` holds; None where that is empty, as for a run that has not finished."""
        return from_json(cls, found, run=run, skipped=skipped) if found else None


@dataclass(frozen=True)
class Interval:
    """A mean over prompts with its 95 % interval. n: how many prompts.

    detectable: the effect that so many prompts would have shown four times in five.
    """

    mean: float
    low: float
    high: float
    n: int
    detectable: float | None


@dataclass(frozen=True)
class Refused:
    """Rows that a stage left out, since the model's chat template, or the endpoint that is asked, refuses them.

    refused_rows: the first, by name
    """

    refused: int
    refused_rows: tuple[str, ...]


@dataclass(frozen=True)
class Cut:
    """What the reading length of a model cuts. reads_tokens: how many tokens of prompt and answer it reads.

    same_after_cut: pairs of answers that no longer differ, which are not learnt from.
    """

    reads_tokens: int
    answers: int
    answers_cut: int
    prompts_shortened: int
    same_after_cut: int


@dataclass(frozen=True)
class Collapse:
    """A step at which the policy had collapsed, with the signs of it."""

    step: int
    signs: tuple[str, ...]


@dataclass(frozen=True)
class Breach:
    """A step at which the policy broke bounds of `[behaviour]`, with what it broke."""

    step: int
    bounds: tuple[str, ...]


# -- JSON ------------------------------------------------------------------------------------------------------------


def to_json(made: Any) -> dict[str, Any]:
    """The fields of a dataclass as plain values."""
    found: dict[str, Any] = {}
    for part in fields(made):
        value = getattr(made, part.name)
        if part.metadata.get("flat"):
            found |= to_json(value) if value is not None else {}
        elif not part.metadata.get("apart") and not (value is None and part.default is None):
            found[part.metadata.get("key", part.name)] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Outcome):
        return value.figures()
    if hasattr(value, "to_json"):
        return value.to_json()
    if is_dataclass(value):
        return to_json(value)
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value


def from_json(kind: type[_Made], found: Mapping[str, Any], **more: Any) -> _Made:
    """A dataclass from plain values. more: fields that the file does not hold."""
    values, hints = dict(more), _hints(kind)
    for part in fields(kind):  # type: ignore[arg-type]
        key, hint = part.metadata.get("key", part.name), hints[part.name]
        if part.metadata.get("flat"):
            inner = _dataclass_of(hint)
            if any(name in found for name in _hints(inner)):
                values[part.name] = from_json(inner, found)
        elif key in found:
            values[part.name] = _made(hint, found[key])
        elif not part.metadata.get("apart"):
            values[part.name] = None if part.default is MISSING else part.default
    return kind(**values)


def _made(hint: Any, value: Any) -> Any:
    """A value as its annotation says."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return None if value is None else _made(next(kind for kind in inner if kind is not type(None)), value)
    if is_dataclass(hint) and isinstance(value, Mapping):
        return from_json(hint, value)  # type: ignore[arg-type]
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_made(inner[0], each) for each in value)
    if inner and isinstance(value, Mapping):
        return {key: _made(inner[1], each) for key, each in value.items()}
    return value


def _dataclass_of(hint: Any) -> Any:
    return next(kind for kind in (hint, *get_args(hint)) if is_dataclass(kind))


def _hints(kind: Any) -> dict[str, Any]:
    """The annotations of a dataclass. Those that take long to import are looked up only here."""
    if kind not in _KNOWN:
        from prefloop.labels.preference_eval import PairReport

        _KNOWN[kind] = get_type_hints(kind, localns={"PairReport": PairReport})
    return _KNOWN[kind]
