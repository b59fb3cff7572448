"""Makes one reward of several criteria: a weighted sum, the least of them, or one of them while others keep bounds.

Criteria are brought to one unit first, the standard deviation of the reference's reward. No algorithm knows of this.

**constrained.** Maximise A subject to mean C_i >= b_i, by the Lagrangian: each bound has a multiplier l_i, and the
reward is (A + sum l_i (C_i - b_i)) / (1 + sum l_i). After each batch ln l_i moves up while the mean of C_i over the
last batches is below its bound, and down while it is above. Moskovitz et al. (2023, arXiv 2310.04373) learn the
multipliers within the run by gradient, and keep the reward bounded; Dai et al. (2023, Safe RLHF, arXiv 2310.12773)
step ln l on a moving average of the violation and divide by 1 + l. There the step is lr * l * violation, the gradient
for ln l. Here it is lr * (violation / two standard errors of that mean), cut to lr: a step has a fixed size where the
violation is told from noise, as with Adam, and is small where it is not. Violations themselves would be far from
even: a share can be 0.5 below its bound of 0.9, but hardly 0.1 above it, so that a multiplier would rise ten times as
fast as it falls. Such an integral answers late, and goes on when the violation is over. A proportional term answers
at once (Stooke et al. 2020, arXiv 2007.03964): the multiplier is exp(the sum of the steps + gain * violation).

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
    noise:   {criterion: the squared standard errors of these means}
    logs:    {criterion: the sum of the steps of the log of its multiplier}
    margins: {criterion: how much more than its bound is aimed at}, in sds of the reference
    """

    goal: Goal
    lr: float = 0.1
    gain: float = 1.0
    most: float = 50.0
    start: float = 1.0
    window: int = 4
    recent: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    noise: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    logs: Mapping[str, float] = field(default_factory=dict)
    margins: Mapping[str, float] = field(default_factory=dict)

    def seen(self, parts: Parts) -> Balance:
        """Return what follows from the values of one more batch: moving averages, then a step of the multipliers."""
        recent, noise = dict[str, tuple[float, ...]](), dict[str, tuple[float, ...]]()
        for c in self.goal.bounds:
            values = c.normal(parts[c.name])
            recent[c.name] = (*self.recent.get(c.name, ()), float(values.mean()))[-self.window :]
            noise[c.name] = (*self.noise.get(c.name, ()), float(values.var() / len(values)))[-self.window :]
        now = replace(self, recent=recent, noise=noise)
        edge = math.log(self.most)
        logs = {
            c.name: min(edge, max(-edge, self.logs.get(c.name, math.log(self.start)) + self.lr * now._told(c)))
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

    def multiplier(self, criterion: Criterion) -> float:
        """Return what the excess over a bound counts beside what is maximised, which counts 1."""
        log = self.logs[criterion.name] + self.gain * self.violation(criterion)
        return min(self.most, max(1.0 / self.most, math.exp(log)))

    def _told(self, criterion: Criterion) -> float:
        """Return the violation in units of two standard errors, between -1 and 1."""
        violation, squares = self.violation(criterion), self.noise[criterion.name]
        error = math.sqrt(sum(squares)) / len(squares)
        return max(-1.0, min(1.0, violation / (2.0 * error))) if error else float(np.sign(violation))

    def reward(self, parts: Parts) -> list[float]:
        """Return the reward of each answer of a batch."""
        excess = {c.name: c.normal(parts[c.name]) - c.normal(c.bound or 0.0) for c in self.goal.bounds}
        total = self.goal.total(parts)
        if self.goal.kind == "constrained":
            multipliers = {c.name: self.multiplier(c) for c in self.goal.bounds}
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
                found[f"multiplier_{c.name}"] = self.multiplier(c)
        return found

    def state(self) -> dict[str, Any]:
        return {
            "recent": {name: list(means) for name, means in self.recent.items()},
            "noise": {name: list(squares) for name, squares in self.noise.items()},
            "logs": dict(self.logs),
            "margins": dict(self.margins),
        }

    def restored(self, state: Mapping[str, Any]) -> Balance:
        recent, noise = ({name: tuple(found) for name, found in state[key].items()} for key in ("recent", "noise"))
        return replace(self, recent=recent, noise=noise, logs=dict(state["logs"]), margins=dict(state["margins"]))
