"""Rollouts for the next step while the learner works on this one: they come from the weights before the update.

The policy that learns is then one update ahead of the policy that sampled. What was sampled keeps the probabilities it
was sampled with, so that the ratio of every algorithm corrects for it, as far as it is not clipped.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import torch

T = TypeVar("T")


class Ahead(Generic[T]):
    """One thing at a time, made in another thread."""

    def __init__(self, make: Callable[[int], T]):
        self.make = make
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="ahead")
        self._pending: tuple[int, Future[T]] | None = None

    def start(self, step: int) -> None:
        """Begin what `step` will need."""
        self._pending = (step, self._worker.submit(self._run, step, max(1, torch.get_num_threads() // 2)))

    def wait(self) -> None:
        """Until what was begun is there, so that the weights it is made with may change."""
        if self._pending is not None:
            self._pending[1].result()

    def take(self, step: int) -> T | None:
        """What was begun for this step, if it was."""
        pending, self._pending = self._pending, None
        return pending[1].result() if pending is not None and pending[0] == step else None

    def _run(self, step: int, threads: int) -> T:
        torch.set_num_threads(threads)  # of this thread: the learner has the others
        return self.make(step)
