"""What a diagnosis says: a finding has symptoms, the causes that may explain them, and what to do next.

All of these are frozen values that become plain JSON, so that the terminal, the report and the page show the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

SURE, GUESS = 0.5, 0.2  # a cause that is less likely than the first is a guess; than the second, not even that
Kind = Literal["invariant", "level", "trend", "setting", "data"]
Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Expected:
    """Holds what is healthy, and who says so. Published ranges differ because these differ.

    range:       in words, with numbers.
    unit:        nats, tokens, a share, standard deviations ...
    estimator:   how the figure is estimated (k1, k3, mean, largest ...).
    aggregation: over what: a token, a sequence, a step, a run.
    source:      paper, framework, or "our rule" with where it was measured.
    """

    range: str
    unit: str
    estimator: str
    aggregation: str
    source: str


@dataclass(frozen=True)
class Symptom:
    """Holds what one rule saw in a run.

    signal:   the metric or record that was read.
    said:     one sentence.
    since:    the first step at which it shows; None where it has no step.
    value:    the figure that broke the rule; None where it is no number.
    baseline: (low, high) of the run's own first steps; None where the rule does not use it.
    p:        of a trend: the probability of such a trend by chance; None of other rules.
    """

    rule: str
    kind: Kind
    signal: str
    said: str
    expected: Expected
    broke: str
    since: int | None = None
    value: float | None = None
    baseline: tuple[float, float] | None = None
    p: float | None = None
    severity: Severity = "warning"


@dataclass(frozen=True)
class Evidence:
    """Holds one fact that speaks for a cause (weight > 0) or against it (weight < 0). Weights are log odds."""

    said: str
    weight: float


@dataclass(frozen=True)
class Action:
    """Holds what to do next: a sentence, and the exact command or setting where there is one."""

    said: str
    command: str | None = None


@dataclass(frozen=True)
class Cause:
    """Holds a possible cause of a finding. confidence: 0 to 1, over all causes considered and "something else"."""

    id: str
    title: str
    broke: str
    confidence: float
    evidence: tuple[Evidence, ...]
    action: Action


@dataclass(frozen=True)
class Finding:
    """Holds symptoms that have one cause, and the causes in order of likelihood."""

    run: str
    stage: str
    symptoms: tuple[Symptom, ...]
    causes: tuple[Cause, ...]

    @property
    def severity(self) -> Severity:
        order: tuple[Severity, ...] = ("error", "warning", "note")
        return min((s.severity for s in self.symptoms), key=order.index)

    @property
    def since(self) -> int | None:
        """Return the first step at which one of the symptoms shows."""
        return min((s.since for s in self.symptoms if s.since is not None), default=None)

    @property
    def title(self) -> str:
        """Return the likeliest cause, as a guess where it is less likely than all others together.

        Where even that would say too much, it is what was seen.
        """
        if self.confidence < GUESS:
            return self.symptoms[0].said
        named = self.causes[0].title
        return named if self.confidence >= SURE else f"Perhaps {named[0].lower()}{named[1:]}"

    @property
    def broke(self) -> str:
        """Return which invariant or expectation was broken."""
        return self.causes[0].broke if self.causes else self.symptoms[0].broke

    @property
    def action(self) -> Action:
        if self.causes:
            return self.causes[0].action
        return Action(f"Look at {self.symptoms[0].signal} in the report; docs/diagnosis.md says what it tells.")

    @property
    def confidence(self) -> float:
        return self.causes[0].confidence if self.causes else 0.0

    def to_json(self) -> dict[str, Any]:
        return {
            "run": self.run,
            "stage": self.stage,
            "title": self.title,
            "severity": self.severity,
            "since": self.since,
            "broke": self.broke,
            "confidence": round(self.confidence, 3),
            "action": asdict(self.action),
            "symptoms": [_plain(asdict(symptom)) for symptom in self.symptoms],
            "causes": [_plain(asdict(cause)) for cause in self.causes],
        }


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    return {
        k: round(v, 6) if isinstance(v, float) else list(v) if isinstance(v, tuple) else v for k, v in value.items()
    }
