"""Defines the result of each step of the loop as a frozen type: key figures by name, and all of them in `result`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from prefloop.project.project import Outcome


@dataclass(frozen=True)
class Interval:
    """Holds a mean over prompts with its 95 % interval. n: how many prompts."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, kw_only=True)
class Imported(Outcome):
    """Says what one or several files added to the store.

    rejected: how many rows could not be used
    reasons:  why, by row
    """

    prompts: int
    demonstrations: int
    items: int
    completions: int
    rankings: int
    rejected: int
    reasons: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Tuned(Outcome):
    """Names a supervised policy. model: its folder, relative to the project."""

    steps: int
    demonstrations: int
    model: str
    heldout_loss: float | None


@dataclass(frozen=True, kw_only=True)
class Sampled(Outcome):
    """Says how many lists of completions were sampled, to be ranked. policy: whose they are."""

    round: int
    policy: str
    prompts: int
    completions: int


@dataclass(frozen=True, kw_only=True)
class Ranked(Outcome):
    """Counts rankings that simulated people or a function gave. items: how many lists were ranked now."""

    criterion: str
    items: int
    rankings: int


@dataclass(frozen=True)
class RewardModel:
    """Describes a reward model of one criterion.

    accuracy: that on held-out pairs; None where nobody ranked held-out prompts
    """

    criterion: str
    model: str
    accuracy: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class Rewarded(Outcome):
    """Holds reward models, by criterion."""

    round: int
    models: Mapping[str, RewardModel]


@dataclass(frozen=True, kw_only=True)
class Aligned(Outcome):
    """Describes a run of `align`. model: the folder of its policy; None where no step was better than the start."""

    round: int
    algorithm: str
    policy: str
    model: str | None
    best_step: int
    reward: float | None
    kl: float | None


@dataclass(frozen=True, kw_only=True)
class Evaluated(Outcome):
    """Compares the aligned policy with the reference, on held-out prompts.

    The intervals are None where both are the same.
    """

    round: int
    policy: str
    reference: str
    win_rate: Interval | None
    reward_gain: Interval | None
    kl: float | None
    collapsed: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Reported(Outcome):
    """Says where the report is: one page for browsers, and the same figures as JSON."""

    html: Path
    json: Path


@dataclass(frozen=True, kw_only=True)
class Exported(Outcome):
    """Says what was written.

    to:     the folder or file
    sha256: that of a file of data; None for models
    """

    what: str
    to: Path
    sha256: str | None


_Typed = TypeVar("_Typed", bound=Outcome)


def typed(kind: type[_Typed], outcome: Outcome, **figures: Any) -> _Typed:
    """Return an outcome as its own type.

    Each field is taken from `figures`, or from the result by its name, or is None.
    """
    ours = {f.name for f in dataclasses.fields(kind)} - {f.name for f in dataclasses.fields(Outcome)}
    values = {name: figures.get(name, outcome.result.get(name)) for name in ours}
    return kind(outcome.stage, outcome.run, outcome.result, outcome.skipped, **values)


def imported(outcome: Outcome) -> Imported:
    files = outcome.result.get("files") or [outcome.result]
    counts = ("prompts", "demonstrations", "items", "completions", "rankings", "rejected")
    figures: dict[str, Any] = {name: sum(file[name] for file in files) for name in counts}
    return typed(Imported, outcome, **figures, reasons=tuple(reason for file in files for reason in file["reasons"]))


def rewarded(outcome: Outcome) -> Rewarded:
    models = {}
    for criterion, figures in outcome.result["models"].items():
        heldout = figures["heldout"] or {}
        low, high = heldout.get("low"), heldout.get("high")
        models[criterion] = RewardModel(criterion, figures["model"], heldout.get("accuracy"), low, high)
    return typed(Rewarded, outcome, models=models)


def evaluated(outcome: Outcome) -> Evaluated:
    sampled = outcome.result.get("sampled") or {}
    figures: dict[str, Any] = {name: _interval(sampled.get(name)) for name in ("win_rate", "reward_gain")}
    figures["kl"] = sampled["policy"]["kl"] if sampled else None
    return typed(Evaluated, outcome, **figures, collapsed=tuple(outcome.result.get("collapsed") or ()))


def _interval(found: Mapping[str, Any] | None) -> Interval | None:
    return Interval(found["mean"], found["low"], found["high"], found["n"]) if found else None
