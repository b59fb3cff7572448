"""Makes this process rank 0 of two: the other is a process of its own that obeys."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import torch

from prefloop.engine import processes
from prefloop.engine.spmd import dismiss
from prefloop.errors import RankError

OTHER = """
import torch
from prefloop.engine.processes import join, leave
from prefloop.engine.spmd import serve
torch.set_num_threads(1)
{first}
serve(join("cpu", {limit}))
leave()
"""


@contextmanager
def two_ranks(
    limit: float = 60.0, first: str = "", meet: Callable[[], None] = lambda: None
) -> Iterator[tuple[processes.Ranks, subprocess.Popen[bytes]]]:
    """Yield this process's place, and the other process. `engine.make` goes on making engines of this process alone.

    first, meet: what the other process (as code) and this one do before they join
    """
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    code, search = OTHER.format(limit=limit, first=first), os.pathsep.join(sys.path)
    theirs = {**os.environ, **place, "RANK": "1", "LOCAL_RANK": "1", "PYTHONPATH": search}
    other = subprocess.Popen([sys.executable, "-c", code], env=theirs)
    mine = {**place, "RANK": "0", "LOCAL_RANK": "0"}
    before, threads = {name: os.environ.get(name) for name in mine}, torch.get_num_threads()
    os.environ.update(mine)
    torch.set_num_threads(1)
    try:
        meet()
        ranks = processes.join("cpu", limit)
        processes._joined.clear()
        yield ranks, other
        with suppress(RankError):
            dismiss(ranks)
        other.wait(30)
    finally:
        other.kill()
        other.wait()
        processes.leave()
        torch.set_num_threads(threads)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
