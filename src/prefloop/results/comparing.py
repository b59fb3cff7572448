"""What `prefloop compare` found: two policies, or a policy and texts, head to head on the same prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from prefloop.results.base import Interval, Outcome, Refused, flat
from prefloop.results.behaviour import BehaviourReport


@dataclass(frozen=True, kw_only=True)
class HeadToHead:
    """Two sides by one scorer on one slice of prompts. a, b: mean scores. win_rate, gain: of A over B, over prompts."""

    scorer: str
    slice: str
    a: float
    b: float
    win_rate: Interval
    gain: Interval


@dataclass(frozen=True)
class ComparedAnswers:
    """The first answer of each side to a prompt, with its scores by scorer."""

    prompt: str
    a: str
    b: str
    scores_a: dict[str, float]
    scores_b: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Compared(Outcome):
    """A beside B. answers: to each prompt, of each side. behaviour: A's beside B's, which stands for the reference."""

    stage: ClassVar[str] = "compare"

    a: str
    b: str
    prompts: int
    answers_a: int
    answers_b: int
    left_out: Refused | None = flat()
    scores: tuple[HeadToHead, ...]
    behaviour: BehaviourReport
    samples: tuple[ComparedAnswers, ...]
