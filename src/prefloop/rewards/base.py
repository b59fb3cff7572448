"""The protocol of everything that gives completions a reward: reward models, rules and user functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from prefloop.types import Completion, Prompt


@dataclass(frozen=True)
class Scores:
    """Holds the reward of each completion.

    total: one number for each completion; higher is better
    parts: the named rewards that `total` is made of, each as long as `total`
    cut:   how many completions were longer than a reward model reads
    """

    total: Sequence[float]
    parts: Mapping[str, Sequence[float]] = field(default_factory=dict)
    cut: int = 0


class Scorer(Protocol):
    """Anything with this `score` method can be optimised against."""

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Scores:
        """Score completions[i] as an answer to prompts[i]. Higher is better."""
        ...


class ZeroScorer:
    """Gives every completion the reward 0, for projects without a reward."""

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Scores:
        return Scores([0.0] * len(completions))
