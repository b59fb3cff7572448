"""`sft`, `reward` and offline `align` learn from given examples by `fit`. The loop itself is in `loop.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from prefloop.engine.base import Engine, Term
from prefloop.engine.profiling import span
from prefloop.project.project import Project, derive
from prefloop.record import Run
from prefloop.training.loop import Schedule, evaluated, train


@dataclass(frozen=True)
class Order:
    """Says which of n examples each step takes: a fresh permutation every epoch, a pure function of the step."""

    n: int
    batch: int
    epochs: float
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.n // self.batch)

    @property
    def steps(self) -> int:
        return max(1, round(self.steps_per_epoch * self.epochs))

    def at(self, step: int) -> list[int]:
        epoch, place = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng([self.seed, epoch]).permutation(self.n)
        return [int(i) for i in order[place * self.batch : (place + 1) * self.batch]]


def fit(
    project: Project,
    run: Run,
    engine: Engine,
    terms: Callable[[int], Sequence[Term]],
    schedule: Schedule,
    *,
    evaluate: Callable[[int], Mapping[str, float]],
    label: str,
    begin: Callable[[], None] = lambda: None,
    after: Callable[[int], None] = lambda done: None,
    carried: dict[str, Any] | None = None,
) -> Mapping[str, float]:
    """Train on what `terms` gives for each step. Metrics are per optimiser step.

    Returns what `evaluate`, which is asked with the averaged weights where there are any, says at the end.
    begin:   called before the first step of a run, and not where a run is resumed
    after:   called after each step, with how many are done, before anything is evaluated or saved
    carried: what `begin` and `evaluate` remember between steps, JSON-able; it goes into every checkpoint
    """
    task = _Supervised(engine, terms, evaluate, begin, after, label, project.config.project.seed, carried)
    train(project, run, engine, task, schedule, label, shown=("loss",))
    # Nothing was evaluated where the run had been killed after its last step.
    return evaluated(engine, task, schedule.steps) if task.found is None else task.found


@dataclass
class _Supervised:
    """Is the task of `loop.train` that learns from given examples. found: what the newest evaluation said."""

    engine: Engine
    terms: Callable[[int], Sequence[Term]]
    measure: Callable[[int], Mapping[str, float]]
    prepare: Callable[[], None]
    after: Callable[[int], None]
    label: str
    seed: int
    carried: dict[str, Any] | None
    found: Mapping[str, float] | None = None
    stopped: str = ""

    def begin(self, fresh: bool) -> Mapping[str, float]:
        if fresh:
            self.prepare()
        return {}

    def step(self, step: int) -> Mapping[str, float]:
        with span("learn"):
            torch.manual_seed(derive(self.seed, self.label, step))  # Dropout has no other source of randomness.
            terms = self.terms(step)
            metrics = {"examples": float(len(terms[0].batch)), **self.engine.step(*terms)}
            self.after(step + 1)
            return metrics

    def evaluate(self, done: int) -> Mapping[str, float]:
        self.found = self.measure(done)
        return self.found

    def logged(self, done: int) -> None:
        """Nothing: rankings and demonstrations do not change while they are learnt from."""

    def state(self) -> dict[str, Any]:
        return self.carried or {}

    def restore(self, state: Mapping[str, Any]) -> None:
        if self.carried is not None:
            self.carried.update(state)
