"""Makes one reward of several criteria: a weighted sum, the least of them, or one of them while others keep bounds.

Criteria are brought to one unit first, the standard deviation of the reference's reward. No algorithm knows of this.

**constrained.** Maximise A subject to mean C_i >= b_i, by the Lagrangian: each bound has a multiplier l_i, and the
reward is (A + sum l_i (C_i - b_i)) / (1 + sum l_i). After each batch ln l_i += lr * (b_i - the mean of C_i over the
last batches), so that a multiplier grows as long as its bound is not kept. Moskovitz et al. (2023, arXiv 2310.04373)
learn the multipliers within the run by gradient, and keep the reward bounded; Dai et al. (2023, Safe RLHF, arXiv
2310.12773) step ln l on a moving average of the violation and divide by 1 + l. There the step is lr * l * violation,
the gradient for ln l. Here it is lr * violation, as in multiplicative weights: with the factor l, a multiplier that has
become small could hardly grow again within a run of a few dozen steps.

**lexicographic.** The first bound that is not kept, on the mean over the last batches, is all that counts. Once all are
kept, A is, for as long as they are.

A bound counts as kept only where the lower end of an interval on validation prompts says so. A mean that just reaches
the bound would therefore never count, so what is aimed at is the bound plus the `margin`, half of the last interval.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["sum", "constrained", "worst", "lexicographic"]
Parts = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Criterion:
    """One thing that is measured of an answer.

    weight: how much it counts in what is maximised
    bound:  the least mean that it must have, in the unit of its values; None where it has none
    mean, std: of the reference's answers, in the same unit. A reward model's values are normalised: 0 and 1.
    """

    name: str
    weight: float = 0.0
    bound: float | None = None
    mean: float = 0.0
    std: float = 1.0

    def normal(self, values: Sequence[float] | float) -> NDArray[np.float64]:
        return (np.asarray(values, dtype=np.float64) - self.mean) / self.std


@dataclass(frozen=True)
class Goal:
    """What is maximised of several criteria. It is the same at every step, so that steps can be compared by it."""

    kind: Kind
    criteria: tuple[Criterion, ...]

    def total(self, parts: Parts) -> NDArray[np.float64]:
        """Return [N]: the weighted sum, or for "worst" the least of the criteria that count."""
        counted = [c for c in self.criteria if c.weight]
        if self.kind == "worst":
            return np.min([c.normal(parts[c.name]) for c in counted], axis=0)
        return np.sum([c.weight * c.normal(parts[c.name]) for c in counted], axis=0)

    @property
    def bounds(self) -> tuple[Criterion, ...]:
        """The criteria with a bound, in the order of the settings."""
        return tuple(c for c in self.criteria if c.bound is not None)


@dataclass(frozen=True)
class Balance:
    """What a run has learnt so far of keeping bounds: an immutable value, of which each step makes the next.

    recent:  {criterion: its means over the last batches, oldest first}, in sds of the reference
    logs:    {criterion: log of its multiplier}
    margins: {criterion: how much more than its bound is aimed at}, in sds of the reference
    """

    goal: Goal
    lr: float = 0.2
    most: float = 50.0
    start: float = 1.0
    window: int = 4
    recent: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    logs: Mapping[str, float] = field(default_factory=dict)
    margins: Mapping[str, float] = field(default_factory=dict)

    def seen(self, parts: Parts) -> Balance:
        """Return what follows from the values of one more batch: moving averages, then a step of the multipliers."""
        recent = {
            c.name: (*self.recent.get(c.name, ()), float(c.normal(parts[c.name]).mean()))[-self.window :]
            for c in self.goal.bounds
        }
        now = replace(self, recent=recent)
        edge = math.log(self.most)
        logs = {
            c.name: min(edge, max(-edge, self.logs.get(c.name, math.log(self.start)) + self.lr * now.violation(c)))
            for c in self.goal.bounds
        }
        return replace(now, logs=logs if self.goal.kind == "constrained" else {})

    def aims(self, margins: Mapping[str, float]) -> Balance:
        """Return the same with other margins. margins: in the units of the criteria."""
        return replace(self, margins={c.name: margins[c.name] / c.std for c in self.goal.bounds})

    def violation(self, criterion: Criterion) -> float:
        """Return how far the mean over the last batches is below what is aimed at, in sds; negative where above."""
        assert criterion.bound is not None
        aim = float(criterion.normal(criterion.bound)) + self.margins.get(criterion.name, 0.0)
        return aim - float(np.mean(self.recent[criterion.name]))

    def reward(self, parts: Parts) -> list[float]:
        """Return the reward of each answer of a batch."""
        excess = {c.name: c.normal(parts[c.name]) - c.normal(c.bound or 0.0) for c in self.goal.bounds}
        total = self.goal.total(parts)
        if self.goal.kind == "constrained":
            multipliers = {name: math.exp(log) for name, log in self.logs.items()}
            pulled = total + np.sum([by * excess[name] for name, by in multipliers.items()], axis=0)
            total = pulled / (1.0 + sum(multipliers.values()))
        elif (first := next((c for c in self.goal.bounds if self.violation(c) > 0), None)) is not None:
            total = excess[first.name]
        return [float(value) for value in total]

    def metrics(self, parts: Parts) -> dict[str, float]:
        """Return the trace of a step: the criterion's mean in its own unit, violation, and multiplier."""
        found = {"objective": float(np.mean(self.reward(parts)))}
        for c in self.goal.bounds:
            found[f"constraint_{c.name}"] = float(np.mean(parts[c.name]))
            found[f"violation_{c.name}"] = self.violation(c)
            if c.name in self.logs:
                found[f"multiplier_{c.name}"] = math.exp(self.logs[c.name])
        return found

    def state(self) -> dict[str, Any]:
        return {
            "recent": {name: list(means) for name, means in self.recent.items()},
            "logs": dict(self.logs),
            "margins": dict(self.margins),
        }

    def restored(self, state: Mapping[str, Any]) -> Balance:
        recent = {name: tuple(means) for name, means in state["recent"].items()}
        return replace(self, recent=recent, logs=dict(state["logs"]), margins=dict(state["margins"]))
