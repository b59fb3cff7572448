"""Results of the stages that go round the whole loop, and of the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from prefloop.results.base import Outcome


@dataclass(frozen=True, kw_only=True)
class Reported(Outcome):
    """Where the report is: one page for browsers, and the same figures as JSON."""

    stage: ClassVar[str] = "report"

    html: Path
    json: Path

    def figures(self) -> dict[str, Any]:
        """Their names, for both are in the project folder."""
        return {"json": self.json.name, "html": self.html.name}


@dataclass(frozen=True, kw_only=True)
class Ran(Outcome):
    """What `run` did, stage after stage."""

    stage: ClassVar[str] = "run"

    rounds: int
    stages: tuple[Outcome, ...]

    def figures(self) -> dict[str, Any]:
        return {"rounds": self.rounds, "stages": [outcome.to_json() for outcome in self.stages]}


@dataclass(frozen=True, kw_only=True)
class DemoFigures(Outcome):
    """What came out of the demo. win_rate: of the loop against imitation; quality: {system: its true quality}."""

    stage: ClassVar[str] = "demo"

    seconds: float
    seed: int
    win_rate: float
    win_rate_low: float
    win_rate_high: float
    quality: Mapping[str, float]
    demonstrations_p95: float
    kl: float
    reward_accuracy: float | None
    prompts: int
    report: str
