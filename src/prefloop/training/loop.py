"""Runs the loop that every training stage goes round: steps, evaluations, checkpoints, and exact resume.

It is written once. What is trained, and how, is a `Task`. `training/fit.py` has the task that learns from given
examples, `training/policy_training.py` the one that learns from its own samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from prefloop.engine.base import Engine
from prefloop.engine.checkpoint import load_checkpoint, save_checkpoint
from prefloop.engine.profiling import next_step, span, timed
from prefloop.errors import ConfigError, DataError, TrainingError
from prefloop.project.project import Project
from prefloop.record import Run
from prefloop.training.rollout import summary


@dataclass(frozen=True)
class Schedule:
    """Says how many steps there are, and after how many of them the task is evaluated and saved.

    evaluates_first: whether there is an evaluation before the first step, too
    """

    steps: int
    eval_every: int
    checkpoint_every: int
    evaluates_first: bool = False

    def evaluates(self, done: int) -> bool:
        return done == self.steps or done % self.eval_every == 0

    def saves(self, done: int) -> bool:
        return done == self.steps or done % self.checkpoint_every == 0


class Task(Protocol):
    @property
    def stopped(self) -> str:
        """Why no further step is wanted. It is empty while there is no reason."""
        ...

    def begin(self, fresh: bool) -> Mapping[str, float]:
        """Get ready once the state is restored. `fresh` is true where there was none.

        Returns metrics of the run as a whole, which are logged with the evaluation before the first step.
        """
        ...

    def step(self, step: int) -> Mapping[str, float]:
        """Learn, and return the metrics of the step. The outermost spans inside are its timings."""
        ...

    def evaluate(self, done: int) -> Mapping[str, float]:
        """Measure the weights after `done` steps. The engine holds their averages, and samples from them."""
        ...

    def logged(self, done: int) -> None:
        """Look at what was logged of an evaluation, once it is on disk. It may be a reason to stop."""
        ...

    def state(self) -> dict[str, Any]:
        """Return what the task remembers beside the engine's state, as JSON values. It goes into every checkpoint."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        ...


def train(
    project: Project, run: Run, engine: Engine, task: Task, schedule: Schedule, label: str, shown: Sequence[str]
) -> int:
    """Go round until all steps are done or the task stops, from the newest checkpoint of this run if it has one.

    shown: the metrics that the progress bar shows.  Returns how many steps are done.
    """
    try:
        return _train(project, run, engine, task, schedule, label, shown)
    except (
        TrainingError,
        DataError,
        ConfigError,
    ) as error:  # the last checkpoint is kept: the same command resumes there
        run.fail(str(error))
        raise


def _train(
    project: Project, run: Run, engine: Engine, task: Task, schedule: Schedule, label: str, shown: Sequence[str]
) -> int:
    run.note("computed_by", engine.computed_by())
    # A run that goes on splits its batches as before, because another split rounds otherwise.
    if (budget := engine.fit_budget(run.manifest.get("token_budget"))) is not None:
        run.note("token_budget", budget)
    run.note("steps", schedule.steps)  # Who watches the run learns from it how far it is.
    folder = run.path / "checkpoints"
    checkpoint = load_checkpoint(folder)
    fresh, done = checkpoint is None, 0
    if checkpoint is not None:
        engine.restore(checkpoint.files, checkpoint.state["engine"])
        task.restore(checkpoint.state["progress"])
        done = checkpoint.step
    run.rewind(-1 if fresh else done)
    about_the_run = task.begin(fresh)
    if fresh and schedule.evaluates_first:
        with project.progress(None, f"{label}: evaluation before the first step"):
            run.metric(0, {**evaluated(engine, task, 0), **about_the_run})
            task.logged(0)
    with project.progress(schedule.steps, label, done) as bar:
        while done < schedule.steps and not task.stopped:
            with timed() as seconds:
                metrics = dict(task.step(done))
            done += 1
            if schedule.evaluates(done):
                metrics |= evaluated(engine, task, done)
            with span("I/O"):
                run.metric(done, metrics)
                run.timing(done, seconds)
                if schedule.evaluates(done):
                    task.logged(done)
                if schedule.saves(done) or task.stopped:
                    tensors, values = engine.state()
                    save_checkpoint(folder, done, tensors, {"engine": values, "progress": task.state()})
            next_step()
            bar.update()
            bar.set_postfix_str(summary(metrics, *shown))
    return done


def evaluated(engine: Engine, task: Task, done: int) -> Mapping[str, float]:
    """Return what the task says of the averaged weights, where there are any."""
    with span("evaluation"), engine.averaged_weights():
        engine.sync()
        found = task.evaluate(done)
    engine.sync()
    return found
