"""Sets switches that hold for the whole process, each here and nowhere else, when a program asks for it.

No import and no constructor of prefloop sets one: whoever embeds it keeps the choice. The command line, and
`Project.open` for programs, call `set_environment`; `Project.device` calls `set_up` before anything is computed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from contextlib import suppress

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # mallopt knows them by the numbers in glibc's malloc.h.
PR_SET_PDEATHSIG = 1  # prctl.h
KEPT_FREE = 1 << 30
# On ranks whole layers come and go between what stays, and what they leave free fits nothing else (docs/scaling.md).
KEPT_FREE_ON_RANKS = 8 << 20


def set_environment() -> None:
    """Set environment variables that libraries read while they are loaded: call it before torch is imported.

    A thread of torch's (GNU OpenMP) waits busily for the others before it sleeps. By default it waits milliseconds:
    while another process has one of the cores, the waiting keeps our own threads from theirs.

    oneDNN, which computes bfloat16 on a CPU, keeps code and buffers for each of the last 1,024 shapes of matrices, and
    ours all differ.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    for shapes_kept in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
        os.environ.setdefault(shapes_kept, "64")


def set_up(threads: int, device: str) -> None:
    """Make the process ready to compute on `device`. `threads` 0 takes all cores that this process may use, or
    its share of them where it is one of several ranks.

    The number of threads is part of what makes a CPU run repeatable.
    """
    import torch

    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(threads or max(1, cores() // ranks))
    _keep_memory(KEPT_FREE if ranks == 1 else KEPT_FREE_ON_RANKS)
    if device == "cuda":  # cuDNN's attention is planned anew for every shape, and ours all differ.
        torch.backends.cuda.enable_cudnn_sdp(False)


def _keep_memory(largest: int) -> None:
    """Make glibc keep what large tensors free for the next ones, in place of fresh pages that the kernel zeroes.

    largest: bytes of a tensor whose memory is kept
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, largest)
        mallopt(M_TRIM_THRESHOLD, KEPT_FREE)


def pick_device(wanted: str) -> str:
    """Return the device: "auto" is CUDA where there is one, else the CPU."""
    import torch

    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return wanted


def cores() -> int:
    """Return how many cores this process may run on: `taskset` and containers give fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def die_with_parent() -> None:
    """Let the kernel kill this process once the one that started it is gone. Only Linux knows how; else do nothing."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
