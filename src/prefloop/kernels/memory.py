"""Says what was computed when memory ran out, and how to need less."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from prefloop.errors import TrainingError

# torch's allocator for the CPU raises a plain RuntimeError.
_SIGNS = ("can't allocate memory", "cannot allocate memory", "std::bad_alloc", "out of memory", "not enough memory")


@contextmanager
def named_when_full(doing: str, shape: Sequence[int], advice: str) -> Iterator[None]:
    """Turn "out of memory", of a GPU or of the machine, into a TrainingError with the shape of the batch.

    doing:  what was computed, such as "a training step"
    shape:  that of the batch, [rows, tokens]
    advice: which settings make it smaller
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        full = isinstance(error, MemoryError | torch.OutOfMemoryError)
        said = "".join(f": {line[:200]}" for line in str(error).strip().splitlines()[:1])
        if not full and not any(sign in str(error).lower() for sign in _SIGNS):
            raise
        raise TrainingError(
            f"memory ran out in {doing} on a batch of {' x '.join(map(str, shape))} (rows x tokens){said}. {advice} "
            "Checkpoints are untouched: the same command goes on from the last one."
        ) from error
