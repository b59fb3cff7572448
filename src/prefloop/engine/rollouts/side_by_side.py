"""Does work that mostly waits for others in several threads, none of which is waited for once nobody wants the rest."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import TypeVar

LOOK_S = 0.1

_Row = TypeVar("_Row")
_Result = TypeVar("_Result")


def side_by_side(
    work: Callable[[_Row], _Result], rows: Sequence[_Row], width: int, ended: threading.Event | None = None
) -> Generator[tuple[_Row, _Result | Exception], None, None]:
    """Yield (row, what work makes of it, or the exception) as each is done. So many are worked on at once.

    Whoever stops reading, or is interrupted, waits for no work that is under way, which may take minutes.

    ended: once it is set, nothing more is yielded
    """
    waiting: queue.SimpleQueue[_Row] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[_Row, _Result | Exception]] = queue.SimpleQueue()
    stopped = threading.Event()
    for row in rows:
        waiting.put(row)

    def worker() -> None:
        while not stopped.is_set():
            try:
                row = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((row, work(row)))
            except Exception as error:  # noqa: BLE001 -- whoever reads it decides
                done.put((row, error))

    for n in range(min(width, len(rows))):
        threading.Thread(target=worker, name=f"side-by-side-{n}", daemon=True).start()
    try:
        for _ in rows:
            if (found := _next(done, ended)) is None:
                return
            yield found
    finally:
        stopped.set()


def _next(done: queue.SimpleQueue[_Row], ended: threading.Event | None) -> _Row | None:
    """Return what is done next; None where the end comes first. Ctrl-C ends the waiting in the main thread only."""
    if ended is None:
        return done.get()
    while not ended.is_set():
        try:
            return done.get(timeout=LOOK_S)
        except queue.Empty:
            continue
    return None


class Ended(Exception):
    """Nobody wants the results any more."""


def all_of(
    work: Callable[[_Row], _Result], rows: Sequence[_Row], width: int, ended: threading.Event | None = None
) -> list[_Result]:
    """Return what work makes of all rows, in order. Raises the exception of one when all are done, or Ended."""
    found: dict[int, _Result | Exception] = {}
    with closing(side_by_side(lambda n: work(rows[n]), range(len(rows)), width, ended)) as made:
        for n, got in made:
            found[n] = got
    if len(found) < len(rows):
        raise Ended
    results = list[_Result]()
    for n in range(len(rows)):
        if isinstance(got := found[n], Exception):
            raise got
        results.append(got)
    return results
