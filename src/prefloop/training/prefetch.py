"""Makes rollouts for the next step while the learner works on this one; they come from the weights before the update.

The policy that learns is then one update ahead of the policy that sampled. What was sampled keeps the probabilities it
was sampled with, so that the ratio of every algorithm corrects for it, as far as it is not clipped.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import torch

from prefloop.engine.profiling import span

T = TypeVar("T")


class Prefetch(Generic[T]):
    """Hands out what each step needs, and makes that of the next step in another thread where staleness is allowed.

        prefetch = Prefetch(roll_out, engine.sync, staleness=1, steps=100, barriers=(10, 20))
        for step in range(100):
            rollouts, behind = prefetch.next(step)
            ...  # the learner may change its weights, and the sampler still has those from before

    make:     makes what a step needs, given the step and whether it is made one update behind
    sync:     gives the sampler the newest weights
    barriers: after every so many steps something else looks at the weights or saves them (an evaluation, a checkpoint).
              Nothing is made ahead across it, so that a run that is resumed there comes to the same samples.
    """

    def __init__(
        self,
        make: Callable[[int, bool], T],
        sync: Callable[[], None],
        *,
        staleness: int,
        steps: int,
        barriers: tuple[int, ...],
    ):
        self._make, self._sync = make, sync
        self._staleness, self._steps, self._barriers = staleness, steps, barriers
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self._pending: Future[T] | None = None

    def next(self, step: int) -> tuple[T, bool]:
        """Return what the step needs, and whether it was made one update behind. Steps are asked for in order."""
        made, behind = None, self._pending is not None
        if self._pending is not None:
            with span("wait"):
                made = self._pending.result()
            self._pending = None
        self._sync()
        if made is None:
            with span("rollout"):
                made = self._make(step, False)
        if self._ahead(step + 1):
            self._pending = self._worker.submit(self._work, step + 1, max(1, torch.get_num_threads() // 2))
        return made, behind

    def _ahead(self, step: int) -> bool:
        """Return whether what a step needs is made during the step before it."""
        return self._staleness > 0 and step < self._steps and all(step % every for every in self._barriers)

    def _work(self, step: int, threads: int) -> T:
        torch.set_num_threads(threads)  # It holds for this thread only: the learner has the others.
        return self._make(step, True)

    def close(self) -> None:
        """Wait for what is being made, because it uses models that the caller is about to let go."""
        self._worker.shutdown()
