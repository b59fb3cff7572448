"""What is sampled while the policy learns: by which weights, and never across a checkpoint or an evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from threading import Event

import pytest

from prefloop.training.prefetch import Prefetch


class World:
    """A learner whose weights are the number of its updates, and a sampler that gets them in `sync`."""

    def __init__(self) -> None:
        self.learner = self.sampler = 0
        self.updated = [Event() for _ in range(10)]  # by each step
        self.made: list[int] = []

    def sync(self) -> None:
        self.sampler = self.learner

    def make(self, step: int, behind: bool) -> int:
        if behind:  # in its own thread: not before the learner has other weights
            assert self.updated[step - 1].wait(10)
        self.made.append(step)
        return self.sampler

    def steps(self, prefetch: Prefetch[int], first: int, last: int) -> Iterator[tuple[int, bool]]:
        for step in range(first, last):
            yield prefetch.next(step)
            self.learner += 1
            self.updated[step].set()

    def prefetch(self, staleness: int, steps: int, barriers: tuple[int, ...]) -> Prefetch[int]:
        return Prefetch(self.make, self.sync, staleness=staleness, steps=steps, barriers=barriers)


def test_samples_are_one_update_behind_except_after_each_barrier() -> None:
    world = World()
    with closing(world.prefetch(1, 10, (3, 4))) as prefetch:
        found = list(world.steps(prefetch, 0, 10))
    behind = [step % 3 != 0 and step % 4 != 0 for step in range(10)]
    assert found == [(step - late, late) for step, late in enumerate(behind)]
    assert world.made == list(range(10)), "each once, and none after the last step"


@pytest.mark.parametrize("barrier", [3, 4])
def test_a_run_that_is_resumed_at_a_barrier_gets_the_same_samples(barrier: int) -> None:
    straight, resumed = World(), World()
    resumed.learner = barrier
    with closing(straight.prefetch(1, 10, (3, 4))) as prefetch:
        whole = list(straight.steps(prefetch, 0, 10))
    with closing(resumed.prefetch(1, 10, (3, 4))) as prefetch:
        assert list(resumed.steps(prefetch, barrier, 10)) == whole[barrier:]


def test_without_staleness_every_step_has_the_newest_weights() -> None:
    world = World()
    with closing(world.prefetch(0, 5, (2,))) as prefetch:
        assert list(world.steps(prefetch, 0, 5)) == [(step, False) for step in range(5)]


def test_closing_waits_for_what_is_being_made() -> None:
    world = World()
    with closing(world.prefetch(1, 9, (9,))) as prefetch:
        assert prefetch.next(0) == (0, False)
        world.updated[0].set()
    assert world.made == [0, 1]


def test_an_error_in_the_other_thread_is_raised_where_its_step_is_asked_for() -> None:
    def make(step: int, behind: bool) -> int:
        return 1 // (1 - step)

    with closing(Prefetch(make, lambda: None, staleness=1, steps=9, barriers=(9,))) as prefetch:
        assert prefetch.next(0) == (1, False)
        with pytest.raises(ZeroDivisionError):
            prefetch.next(1)
