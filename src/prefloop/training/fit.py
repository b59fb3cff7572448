"""The loop every supervised stage shares: steps, evaluation, checkpoints, exact resume."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from prefloop.engine.base import Engine, Term
from prefloop.engine.checkpoint import load_checkpoint, save_checkpoint
from prefloop.engine.profiling import next_step, span
from prefloop.project.project import Project, derive
from prefloop.record import Run


@dataclass(frozen=True)
class Order:
    """Which of n examples each step takes: a fresh permutation every epoch, a pure function of the step."""

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
    *,
    steps: int,
    eval_every: int,
    checkpoint_every: int,
    evaluate: Callable[[int], Mapping[str, float]],
    label: str,
    carried: dict[str, Any] | None = None,
) -> Mapping[str, float]:
    """Train for `steps`, from the newest checkpoint of this run if it has one. Metrics are per optimiser step.

    Returns what `evaluate`, which is asked with the averaged weights where there are any, says at the end.
    carried: what `evaluate` remembers between steps, JSON-able; it goes into every checkpoint and comes from one.
    """
    run.note("computed_by", engine.computed_by())
    folder = run.path / "checkpoints"
    start = 0
    checkpoint = load_checkpoint(folder)
    if checkpoint is not None:
        engine.restore(checkpoint.files, checkpoint.state["engine"])
        start = checkpoint.step
        if carried is not None:
            carried.update(checkpoint.state.get("carried", {}))
    run.rewind(start)

    def evaluated(step: int) -> Mapping[str, float]:
        with engine.averaged_weights(), span("evaluation"):
            return evaluate(step)

    found: Mapping[str, float] | None = None
    with project.progress(steps, label, start) as bar:
        for step in range(start, steps):
            began = time.perf_counter()
            torch.manual_seed(derive(project.config.project.seed, label, step))  # dropout has no other source
            asked = terms(step)
            metrics = {"examples": float(len(asked[0].batch)), **engine.step(*asked)}
            learnt = time.perf_counter()  # what follows is measuring and saving
            last = step + 1 == steps
            if last or (step + 1) % eval_every == 0:
                found = evaluated(step + 1)
                metrics |= found
            with span("I/O"):
                run.metric(step + 1, metrics)
                run.timing(step + 1, {"learn": learnt - began})
                if last or (step + 1) % checkpoint_every == 0:
                    state = engine.state()
                    more = {} if carried is None else {"carried": carried}
                    save_checkpoint(folder, step + 1, state.tensors, {"engine": state.values, **more})
            next_step()
            bar.update()
            bar.set_postfix(loss=f"{metrics['loss']:.3f}")
    return evaluated(steps) if found is None else found  # none: it was killed after the last step
