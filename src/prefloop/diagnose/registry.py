"""Rules and causes by id. Adding one: a function with the decorator in a file of `rules/` or `causes/`; nothing else.

A rule sees one thing in one run and says so. A cause says which rules it explains, by how much, and looks for further
evidence. `diagnosis.py` brings both together.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module

from prefloop.diagnose.finding import Action, Evidence, Expected, Kind, Severity, Symptom
from prefloop.diagnose.records import RunRecord

ALIGN = ("align",)


@dataclass(frozen=True)
class Seen:
    """Holds what a rule's function returns where its expectation is broken. signal: none = the first that it reads."""

    said: str
    since: int | None = None
    value: float | None = None
    baseline: tuple[float, float] | None = None
    p: float | None = None
    signal: str | None = None
    severity: Severity | None = None


Look = Callable[[RunRecord], Seen | None]


@dataclass(frozen=True)
class Rule:
    """Holds one expectation on one signal.

    id:       as in docs/diagnosis.md.  family: its file.  stages: the stages whose runs it is asked of.
    reads:    metrics or records without which it cannot be asked.
    broke:    the invariant or expectation that a symptom breaks, as a sentence.
    meaning:  why it matters.  cannot_tell: what the rule does not see or cannot tell apart.
    live:     cheap enough to be asked at every evaluation of a run that goes on.
    heldout:  asked of the figures on held-out prompts where a run logs none of its own, as an offline one does.
    """

    id: str
    family: str
    kind: Kind
    stages: tuple[str, ...]
    reads: tuple[str, ...]
    expected: Expected
    broke: str
    meaning: str
    cannot_tell: str
    look: Look
    severity: Severity = "warning"
    live: bool = True
    heldout: bool = False

    def readable(self, run: RunRecord) -> bool:
        """Whether the run is of its stages, and has what the rule reads."""
        return run.stage in self.stages and self._view(run) is not None

    def ask(self, run: RunRecord) -> Symptom | None:
        view = self._view(run) if run.stage in self.stages else None
        seen = self.look(view) if view is not None else None
        if seen is None:
            return None
        own = seen.signal or (self.reads[0] if self.reads else self.family)
        return Symptom(
            rule=self.id,
            kind=self.kind,
            signal=own if view is run else f"eval_{own}",
            said=seen.said,
            expected=self.expected,
            broke=self.broke,
            since=seen.since,
            value=seen.value,
            baseline=seen.baseline,
            p=seen.p,
            severity=seen.severity or self.severity,
        )

    def _view(self, run: RunRecord) -> RunRecord | None:
        """The run as the rule reads it: itself, or with held-out figures by the names of those that it lacks."""
        if all(run.series(name) is not None for name in self.reads):
            return run
        if not self.heldout or any(run.series(name) is not None for name in self.reads):
            return None
        found = {name: run.series(f"eval_{name}") for name in self.reads}
        there = {name: series for name, series in found.items() if series is not None}
        return replace(run, metrics={**run.metrics, **there}) if len(there) == len(found) else None


@dataclass(frozen=True)
class CauseRule:
    """Holds one thing that can have gone wrong.

    explains: rule id -> log odds that the rule's symptom adds.
    expects:  rule id -> log odds that are lost where the rule could be asked and saw nothing.
    prior:    log odds before anything is seen.
    look:     further facts for and against.  act: what to do next, for this run.
    """

    id: str
    family: str
    title: str
    broke: str
    remedy: str
    explains: Mapping[str, float]
    look: Callable[[RunRecord], Iterable[Evidence]]
    act: Callable[[RunRecord], Action]
    expects: Mapping[str, float] = field(default_factory=dict)
    prior: float = -1.0
    stages: tuple[str, ...] = ALIGN


_rules: dict[str, Rule] = {}
_causes: dict[str, CauseRule] = {}


def rule(
    id: str,
    *,
    kind: Kind,
    reads: tuple[str, ...] = (),
    expected: Expected,
    broke: str,
    meaning: str,
    cannot_tell: str,
    stages: tuple[str, ...] = ALIGN,
    severity: Severity = "warning",
    live: bool = True,
    heldout: bool = False,
) -> Callable[[Look], Look]:
    """Register a function as a rule. Raises ValueError for an id that is taken."""

    def keep(look: Look) -> Look:
        if id in _rules:
            raise ValueError(f"there are two rules called {id}")
        family = look.__module__.rpartition(".")[2]
        _rules[id] = Rule(
            id, family, kind, stages, reads, expected, broke, meaning, cannot_tell, look, severity, live, heldout
        )
        return look

    return keep


Facts = Callable[[RunRecord], Iterable[Evidence]]


def cause(
    id: str,
    title: str,
    *,
    broke: str,
    remedy: str,
    explains: Mapping[str, float],
    act: Callable[[RunRecord], Action] | None = None,
    expects: Mapping[str, float] | None = None,
    prior: float = -1.0,
    stages: tuple[str, ...] = ALIGN,
) -> Callable[[Facts], Facts]:
    """Register a cause; the function yields further evidence. Raises ValueError for an id that is taken."""

    def keep(look: Facts) -> Facts:
        if id in _causes:
            raise ValueError(f"there are two causes called {id}")
        family = look.__module__.rpartition(".")[2]
        do = act or (lambda run: Action(remedy))
        _causes[id] = CauseRule(id, family, title, broke, remedy, explains, look, do, expects or {}, prior, stages)
        return look

    return keep


def rules() -> list[Rule]:
    """Return every rule, by family and order of definition."""
    _load("rules")
    return list(_rules.values())


def causes() -> list[CauseRule]:
    """Return every cause, by family and order of definition."""
    _load("causes")
    return list(_causes.values())


@cache
def _load(room: str) -> None:
    package = import_module(f"prefloop.diagnose.{room}")
    for module in sorted(found.name for found in pkgutil.iter_modules(package.__path__)):
        import_module(f"prefloop.diagnose.{room}.{module}")
