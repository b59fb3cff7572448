"""What came of the checks of behaviour: a policy's answers beside the reference's, on the same prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prefloop.results.base import Interval

Verdict = Literal["improved", "held", "changed", "regressed", "unclear"]


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """One check on one slice of prompts.

    policy, reference: mean figures. worse: the direction in which the figure should not go.
    change: of the policy's figure from the reference's, over prompts; a share of the reference's figure if `relative`.
    p: that chance alone gives such a change, corrected for the number of questions.
    verdict: "changed" is said of a figure of which neither direction is better; "unclear" could not be told.
    max_drop: the bound, where there is one. broken: it got worse by more than that.
    """

    check: str
    slice: str
    unit: str
    worse: str
    relative: bool
    policy: float
    reference: float
    change: Interval
    p: float
    verdict: Verdict
    max_drop: float | None = None
    broken: bool = False


@dataclass(frozen=True, kw_only=True)
class BehaviourReport:
    """All checks on all slices. prompts: of each slice. problems: what could not be checked, for people.

    unchecked: the bounds that nobody can say to be kept, since their checks gave no numbers, with the reason
    """

    checks: tuple[CheckResult, ...]
    prompts: dict[str, int]
    problems: tuple[str, ...]
    unchecked: tuple[str, ...] = ()

    def said(self, verdict: Verdict) -> tuple[CheckResult, ...]:
        """The checks with a verdict."""
        return tuple(found for found in self.checks if found.verdict == verdict)

    @property
    def broken(self) -> tuple[CheckResult, ...]:
        """The bounds that are broken."""
        return tuple(found for found in self.checks if found.broken)
