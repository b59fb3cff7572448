"""Says how much memory is free, and when it ran out what was computed, and how to need less."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

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
        said = "".join(f": {line[:200]}" for line in str(error).strip().splitlines()[:1])
        if not is_full(error):
            raise
        raise TrainingError(
            f"memory ran out in {doing} on a batch of {' x '.join(map(str, shape))} (rows x tokens){said}. {advice} "
            "Checkpoints are untouched: the same command goes on from the last one."
        ) from error


def is_full(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, of a GPU or of the machine."""
    named = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return named or any(sign in str(error).lower() for sign in _SIGNS)


def free_memory(device: str) -> int:
    """Return how many bytes this process can still take on a device."""
    if device.startswith("cuda"):
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    found = _available()
    with suppress(OSError, ValueError):  # There is no such file, or it says "max".
        limit, used = (int((Path("/sys/fs/cgroup") / name).read_text()) for name in ("memory.max", "memory.current"))
        found = min(found, limit - used)
    return max(0, found)


def total_memory(device: str) -> int:
    """Return how many bytes a device has, or the limit of this process's container."""
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[1])
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):
        found = min(found, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return found


def _available() -> int:
    with suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]) << 10
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2  # Others have the rest.
