"""What a case is. Adding one: a file of `book/` with a `CASE`; nothing else knows its name."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Literal

from prefloop.demo.quality import score
from prefloop.errors import ConfigError, suggest
from prefloop.project.project import Project
from prefloop.types import Prompt

LOOP = ("sample", "crowd", "reward", "align")
Starts = Literal["sampled", "rewarded"]


@dataclass(frozen=True)
class Person:
    """What a person has to do where the printed command does not do it all, and how the case plays that person.

    said:    the work in words.  act: does it to the project; the simulated crowd may help.
    follows: the stages that are run afterwards.
    """

    said: str
    act: Callable[[Project], None]
    follows: tuple[str, ...] = LOOP[2:]


@dataclass(frozen=True)
class Case:
    """A failure on the demo's desk, which a setting or the data brings about: the product has no hook for it.

    title:    one line, what the reader sees.  story: one paragraph, what happens and why it is easy to miss.
    planted:  in words, what is wrong in the project.
    cause:    the id of the cause that the first finding should name (prefloop.diagnose.causes).
    fault:    settings of the project's prefloop.toml, as section.key=value; the healthy project has not got them.
    task:     settings that both projects have, where the case has another task than the demo's.
    files:    name = text of files beside prefloop.toml.
    plant:    changes the data of the project, or who ranks, before its stages run.
    starts:   "rewarded": both have the same reward model; "sampled": nobody has ranked yet.
    stages:   what is run with the fault in place.
    person:   where the remedy is a person's work.
    truth:    the hidden quality of answers, which no stage of the case learns from.  truth_is: the same in words.
    curves:   metrics of `align` that the page draws.
    modest:   what the case cannot show, where the field knows no early warning.
    """

    name: str
    title: str
    story: str
    planted: str
    cause: str
    fault: tuple[str, ...] = ()
    task: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    plant: Callable[[Project], None] | None = None
    starts: Starts = "rewarded"
    stages: tuple[str, ...] = ("align",)
    person: Person | None = None
    truth: Callable[[Sequence[Prompt], Sequence[str]], Sequence[float]] = score
    truth_is: str = "the demo's hidden quality, 0 to 1"
    curves: tuple[str, ...] = ("reward", "eval_judge", "kl", "entropy")
    modest: str = ""


@cache
def cases() -> Mapping[str, Case]:
    """All cases of `book/`, by name."""
    from prefloop.cases import book

    found: list[Case] = [
        import_module(f"{book.__name__}.{module.name}").CASE for module in pkgutil.iter_modules(book.__path__)
    ]
    return {case.name: case for case in found}


def find(name: str) -> Case:
    """Return a case. Raises ConfigError for an unknown name."""
    if name not in cases():
        raise ConfigError(f'there is no case "{name}".{suggest(name, list(cases()))} prefloop case lists them.')
    return cases()[name]
