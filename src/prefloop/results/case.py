"""What a case of the casebook came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from prefloop.results.base import Interval, Outcome


@dataclass(frozen=True)
class CaseFinding:
    """The first finding of the diagnosis, in short. named: whether its cause is the one that was planted."""

    run: str
    title: str
    cause: str
    severity: str
    since: int | None
    confidence: float
    broke: str
    seen: tuple[str, ...]
    said: str
    command: str | None
    named: bool


@dataclass(frozen=True, kw_only=True)
class CaseFigures(Outcome):
    """What a case came to. reference, healthy, fault, after: mean hidden quality of answers to held-out prompts.

    planted: in words.  settings: those of the project's prefloop.toml that are planted.
    applied: the commands that mended it; a line that begins with # is a person's work, which the case played.
    restored: (after - fault) / (healthy - fault); None where the fault has cost nothing.
    """

    stage: ClassVar[str] = "case"

    name: str
    title: str
    seed: int
    seconds: float
    planted: str
    settings: tuple[str, ...]
    finding: CaseFinding
    applied: tuple[str, ...]
    truth: str
    reference: Interval
    healthy: Interval
    fault: Interval
    after: Interval
    restored: Interval | None
    runs: Mapping[str, str]
    page: str
