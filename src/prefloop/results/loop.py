"""Results of the stages that go round the whole loop, and of the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from prefloop.results.base import Interval, Outcome


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
class FrontPoint:
    """One weight or bound of a front. policy, first, second, kl: None where the run left the policy as it was.

    first, second: means of both criteria on held-out prompts
    met: of a bound, whether the lower end of the second's interval is at it or above
    front: whether no other point is better by both.  satisfies: whether it keeps the bounds that the project states
    why: where there is no new policy, the reason
    """

    value: float
    run: str
    policy: str | None
    first: Interval | None
    second: Interval | None
    kl: float | None
    met: bool | None = None
    front: bool | None = None
    satisfies: bool | None = None
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Traded(Outcome):
    """The front of two criteria. stated: the bounds of `[align.objective] subject_to`.

    chosen: of the runs that keep them, the one with the most of the first criterion; None where there is none
    """

    stage: ClassVar[str] = "frontier"

    round: int
    first: str
    second: str
    kind: Literal["weights", "bounds"]
    stated: Mapping[str, float]
    reference: Mapping[str, Interval] | None
    points: tuple[FrontPoint, ...]
    chosen: str | None


@dataclass(frozen=True, kw_only=True)
class DemoFigures(Outcome):
    """What came out of the demo. win_rate: of the loop against imitation. The others are {system: figure}.

    quality, readable:  means of the true quality and of the part of it that says whether an answer is readable
    right_step:         share of prompts whose answer offers the right step, and only that
    distinct_2:         variety at temperature 1: different word pairs, as a share of all
    """

    stage: ClassVar[str] = "demo"

    seconds: float
    seed: int
    win_rate: float
    win_rate_low: float
    win_rate_high: float
    quality: Mapping[str, float]
    right_step: Mapping[str, float]
    readable: Mapping[str, float]
    distinct_2: Mapping[str, float]
    demonstrations_p95: float
    kl: float
    reward_accuracy: float | None
    prompts: int
    report: str
