"""Checks by name. Adding one: a function with the decorator in a file of `checks/`; nothing else.

A check says one number of one answer, or nothing where it doesn't apply. Its mean over the answers is the figure, and
`worse` says which way the figure must not go.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Literal

Worse = Literal["lower", "higher", "either"]
Unit = Literal["share", "words", "points", "nats a token", "value"]

# A change that is surely smaller than this counts as none, where no bound says otherwise. For a check that is relative
# it is a share of the reference's figure.
MARGINS: Mapping[str, float] = {"share": 0.05, "words": 0.1, "points": 5.0, "nats a token": 0.1, "value": 0.05}


@dataclass(frozen=True)
class Pair:
    """One answer to one prompt, as checks see it.

    id:      the prompt's.  ended: whether the answer ended by itself; None where nobody knows.
    likelihood: mean log-probability of a token under the reference, in nats; None where it was not asked.
    """

    prompt: str
    answer: str
    id: str = ""
    ended: bool | None = None
    likelihood: float | None = None


@dataclass(frozen=True)
class Failed:
    """Stands for the number of an answer of which a check could say none. reason: for people."""

    reason: str


@dataclass(frozen=True)
class Unfit:
    """Stands for the number of an answer that a check cannot judge, though it was asked to. reason: for people."""

    reason: str


Value = float | None | Failed | Unfit
OfOne = Callable[[Pair], float | None | Unfit]
OfAll = Callable[[Sequence[Pair]], Sequence[Value]]


@dataclass(frozen=True)
class Check:
    """One thing that is looked at in answers.

    name:     as in `[behaviour] checks`.  unit: of its figure.  worse: the direction in which the figure may not go.
    meaning:  what the number is, for docs/behaviour.md and the report.
    measure:  gives one number for each answer.  It gets one answer of each prompt, by one policy.
    relative: a change is a share of the reference's figure, and not in the unit itself.
    identity: changes when the check does; the name where prefloop brings it.
    """

    name: str
    unit: Unit
    worse: Worse
    meaning: str
    measure: OfAll
    relative: bool = False
    identity: str = ""


_CHECKS: dict[str, Check] = {}


def check(name: str, unit: Unit, worse: Worse, meaning: str, relative: bool = False) -> Callable[[OfOne], OfOne]:
    """Register a function that says one number of one answer; None where it does not apply."""

    def register(function: OfOne) -> OfOne:
        _add(Check(name, unit, worse, meaning, lambda pairs: [function(pair) for pair in pairs], relative))
        return function

    return register


def check_together(
    name: str, unit: Unit, worse: Worse, meaning: str, relative: bool = False
) -> Callable[[OfAll], OfAll]:
    """Register a function that needs all answers to say one number of each, as for how different they are."""

    def register(function: OfAll) -> OfAll:
        _add(Check(name, unit, worse, meaning, function, relative))
        return function

    return register


def _add(made: Check) -> None:
    if made.name in _CHECKS:
        raise ValueError(f'there are two checks called "{made.name}"')
    _CHECKS[made.name] = made


@cache
def built_in() -> Mapping[str, Check]:
    """All checks of `checks/`, by name, in the order of their files."""
    from prefloop.behaviour import checks

    for module in pkgutil.iter_modules(checks.__path__):
        import_module(f"{checks.__name__}.{module.name}")
    return dict(_CHECKS)
