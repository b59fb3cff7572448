"""The result of `status`: what a project holds, what is running and how far people are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from prefloop.results.base import Interval, Outcome


@dataclass(frozen=True)
class DataStatus:
    """Rows in the store. effective: rankings that count, of which `simulated` are by simulated people."""

    prompts: int
    demonstrations: int
    items: int
    completions: int
    effective: int
    simulated: int
    annotators: int
    criteria: Mapping[str, int]


@dataclass(frozen=True)
class RoundStatus:
    """How far one round is. policy: the run whose policy counts. win_rate: what the newest evaluation measured."""

    round: int
    lists: int
    ranked: int
    reward_model: bool
    align_runs: int
    policy: str | None
    evaluated: bool
    win_rate: Interval | None


@dataclass(frozen=True)
class ModelStatus:
    """A registered model."""

    version: str
    kind: str
    criterion: str | None
    round: float | None


@dataclass(frozen=True)
class PersonStatus:
    """What one person has ranked."""

    name: str
    role: str
    done: int
    last_24_hours: int


@dataclass(frozen=True)
class PeopleStatus:
    """The queue of the criterion that people rank by. at_work: lists that somebody has been given."""

    criterion: str
    lists: int
    done: int
    wanted: int
    at_work: int
    people: tuple[PersonStatus, ...]


@dataclass(frozen=True)
class ProcessStatus:
    """A process that makes runs."""

    pid: int
    command: str


@dataclass(frozen=True)
class RunningStatus:
    """What is at work. server: the address of the annotation server, where it answers."""

    work: ProcessStatus | None
    server: str | None


@dataclass(frozen=True)
class RunFindings:
    """What is wrong with a run: the titles of its findings, and the command that says more."""

    run: str
    titles: tuple[str, ...]
    command: str

    @property
    def sentence(self) -> str:
        """All of it in one line, which names two findings at most."""
        n, more = len(self.titles), len(self.titles) - 2
        named = "; ".join(self.titles[:2]) + (f"; and {more} more" if more > 0 else "")
        return f"{n} finding{'' if n == 1 else 's'} in {self.run}: {named} ({self.command})"


@dataclass(frozen=True, kw_only=True)
class Status(Outcome):
    """Where a project stands. findings: of the newest run of each stage.  next: the command that comes next."""

    stage: ClassVar[str] = "status"

    name: str
    project: str
    store: str
    model: str
    algorithm: str
    data: DataStatus
    rounds: tuple[RoundStatus, ...]
    models: tuple[ModelStatus, ...]
    people: PeopleStatus
    running: RunningStatus
    unfinished: tuple[str, ...]
    findings: tuple[RunFindings, ...] = ()
    next: str | None = None
