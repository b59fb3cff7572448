"""The one protocol of everything that judges completions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from prefloop.types import Completion, Prompt


@dataclass(frozen=True)
class Scores:
    """One number for each completion, and the named parts it was made of (each as long).

    cut: how many completions were longer than a judge reads.
    """

    total: Sequence[float]
    parts: Mapping[str, Sequence[float]] = field(default_factory=dict)
    cut: int = 0


class Scorer(Protocol):
    def score(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Scores:
        """Score completions[i] as an answer to prompts[i]. Higher is better."""
        ...


class Unjudged:
    """Where there is nothing to judge by: every completion is worth 0."""

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Scores:
        return Scores([0.0] * len(completions))
