"""Joins this process to the group of ranks that torchrun started, and carries orders and results between them.

Rank 0 has the stage. The others wait for its orders (`spmd.serve`). A rank that dies ends the group: its neighbours see
a closed connection, and torchrun ends and restarts all of them. A rank that hangs ends it after the time limit: inside
a verb the others wait no longer, and between two verbs the pulse of rank 0 stops, which no rank can do without.
"""

from __future__ import annotations

import os
import pickle
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, TCPStore

import prefloop
from prefloop.engine.process import die_with_parent
from prefloop.engine.torchrun import SINGLE_STORE
from prefloop.errors import ConfigError, RankError

TIME_LIMIT = 1800.0  # Seconds that ranks wait for one another inside a verb, where nothing else is said.
MEETING = timedelta(minutes=10)  # Nodes start so long after one another.
PATIENCE = timedelta(days=30)  # A rank waits so long for the next order, since the stage may do anything between two.
PULSE_S = 1.0


@dataclass(frozen=True)
class Channel:
    """Carries orders from rank 0, and results to it. Each thread that orders has one of its own.

    orders:  the group of processes over which orders come, however long a rank waits for one
    results: the group over which ranks answer, within the time limit
    """

    orders: Any
    results: Any

    def tell(self, order: Any) -> None:
        if _lost:
            raise RankError(_lost[0])  # Waiting once more would bring nothing.
        with named_when_lost():
            dist.broadcast_object_list([order], src=0, group=self.orders)

    def hear(self) -> Any:
        found: list[Any] = [None]
        with named_when_lost():
            dist.broadcast_object_list(found, src=0, group=self.orders)
        return found[0]

    def gathered(self, mine: Any) -> list[Any]:
        """Return what every rank gave, by rank, on all ranks."""
        found: list[Any] = [None] * dist.get_world_size()
        with named_when_lost():
            dist.all_gather_object(found, mine, group=self.results)
        return found

    def meet(self) -> None:
        """Wait until every rank is here."""
        self.gathered(None)

    def from_first(self, mine: Any = None) -> Any:
        """Return what rank 0 gave, on all ranks."""
        found = [mine]
        with named_when_lost():
            dist.broadcast_object_list(found, src=0, group=self.results)
        return found[0]


@dataclass(frozen=True)
class Ranks:
    """Holds this process's place among those that compute together.

    main:     for the thread that has the stage
    sampling: for the thread that samples while the learner learns
    """

    rank: int
    world: int
    device: str
    main: Channel
    sampling: Channel


_joined: list[Ranks] = []
_lost: list[str] = []  # what was said of the first rank that was found missing
_pulses: list[tuple[Thread, Event]] = []


def joined() -> Ranks | None:
    """Return this process's place, where it is one of several that compute together."""
    return _joined[-1] if _joined else None


def started_by_torchrun() -> bool:
    """Return whether this process is one of several, which torchrun (or a program like it) has started."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def join(device: str = "cpu", time_limit: float = TIME_LIMIT) -> Ranks:
    """Meet the other ranks, by the environment that torchrun sets. Every rank calls it once.

    Raises ConfigError where the ranks do not fit each other, and RankError where they do not meet.
    """
    rank, world, local = (int(os.environ.get(name, "0")) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    if "TORCHELASTIC_RUN_ID" in os.environ:  # A torchrun that is killed ends no rank itself.
        die_with_parent()
    if device == "cuda":
        if local >= torch.cuda.device_count():
            raise ConfigError(
                f"rank {rank} is number {local} on this machine, which has {torch.cuda.device_count()} GPUs. Start one "
                'rank for each GPU, or set [project] device = "cpu".'
            )
        torch.cuda.set_device(local)
    limit = timedelta(seconds=time_limit)
    with named_when_lost():
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo",
            store=_store(rank, world, max(limit, MEETING)),
            rank=rank,
            world_size=world,
            timeout=limit,
        )
        orders = PATIENCE if rank else limit  # Rank 0 waits for a rank that is to take an order.
        pulse = dist.new_group(backend="gloo", timeout=limit)
        main, sampling = (
            Channel(dist.new_group(backend="gloo", timeout=orders), dist.new_group(backend="gloo", timeout=limit))
            for _ in range(2)
        )
    ranks = Ranks(rank, world, device, main, sampling)
    _check_equal(ranks)
    _joined.append(ranks)
    left = Event()
    work, args = (_heed, (pulse, ranks, left)) if rank else (_beat, (pulse, left))
    _pulses.append((Thread(target=work, args=args, name="pulse", daemon=True), left))
    _pulses[-1][0].start()
    return ranks


def leave() -> None:
    """Forget the others. The process may join again."""
    for thread, left in _pulses:
        left.set()
        thread.join()
    for kept in (_joined, _lost, _pulses):
        kept.clear()
    if dist.is_initialized():
        dist.destroy_process_group()


def _beat(pulse: Any, left: Event) -> None:
    """Tell the other ranks every second that this process runs, until it leaves them."""
    with suppress(RankError):  # The next order says it.
        going_on = True
        while going_on:
            going_on = not left.wait(PULSE_S)
            with named_when_lost():
                dist.broadcast(torch.tensor(going_on), 0, group=pulse)


def _heed(pulse: Any, ranks: Ranks, left: Event) -> None:
    """End this process where rank 0 does not say any more that it runs."""
    going_on = torch.tensor(True)
    try:
        while going_on and not left.is_set():
            with named_when_lost():
                dist.broadcast(going_on, 0, group=pulse)
    except RankError as error:
        if not left.is_set():
            end_process(ranks, error)


def end_process(ranks: Ranks, error: BaseException) -> None:
    """End this process at once, and with it the group: the other threads of it may wait for a rank for ever."""
    print(f"error: rank {ranks.rank}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    os._exit(1)


def _store(rank: int, world: int, limit: timedelta) -> Any:
    """Return where the ranks find each other's addresses.

    torchrun keeps one store for all its attempts, unless told otherwise, and after a restart the addresses in it are
    those of the dead: each attempt writes under a name of its own (pytorch issue 135712).
    """
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    of_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    several = int(os.environ.get("GROUP_WORLD_SIZE", "1")) > 1
    if of_agent and several and int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0:
        raise ConfigError(
            f"torchrun on several nodes with --max-restarts needs {SINGLE_STORE}=1 in its environment: without it a "
            "restarted rank is told the addresses of the ranks that died. examples/slurm.sh sets it."
        )
    store = TCPStore(address, port, world, is_master=rank == 0 and not of_agent, timeout=limit, multi_tenant=True)
    return PrefixStore(f"prefloop-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0') if of_agent else ''}", store)


def _check_equal(ranks: Ranks) -> None:
    """Raise ConfigError where a rank runs other versions than rank 0."""
    mine = {"prefloop": prefloop.__version__, "torch": torch.__version__, "Python": sys.version.split()[0]}
    every = ranks.main.gathered(mine)
    for rank, theirs in enumerate(every):
        for name, version in every[0].items():
            if theirs[name] != version:
                raise ConfigError(
                    f"rank {rank} has {name} {theirs[name]}, and rank 0 has {version}. Install the same environment "
                    "on every node."
                )


def refuse_unless_shared(ranks: Ranks, folder: Path) -> None:
    """Raise ConfigError where a rank does not see the project folder of rank 0, which all write to."""
    mark = folder / f".ranks-{os.getpid()}"
    name = ranks.main.from_first(mark.name)
    if ranks.rank == 0:
        mark.touch()
    ranks.main.from_first()
    every = ranks.main.gathered((socket.gethostname(), str(folder.absolute()), (folder / name).exists()))
    if ranks.rank == 0:
        mark.unlink()
    for rank, (host, path, sees) in enumerate(every):
        if not sees:
            raise ConfigError(
                f"{path} of rank {rank} on {host} is not the folder that rank 0 has on {every[0][0]}. All ranks write "
                "their pieces of checkpoints: put the project where all nodes see the same files."
            )


_OF_CONNECTIONS = ("gloo", "Gloo", "NCCL", "pair closure")


@contextmanager
def named_when_lost() -> Iterator[None]:
    """Turn the error of a connection between ranks into a RankError."""
    try:
        yield
    except (RuntimeError, pickle.UnpicklingError) as error:
        said = str(error)
        if not (isinstance(error, dist.DistError) or any(word in said for word in _OF_CONNECTIONS)):
            raise
        _lost.append(
            "another rank has died, or did not answer within [project] rank_timeout "
            f"({said.strip().splitlines()[0][:200]}). Its own message stands above, if it had time for one. The last "
            "checkpoint is kept: the same command goes on from there. Raise rank_timeout if a rank is only slow."
        )
        raise RankError(_lost[0]) from error


def dealt(lists: Sequence[int], world: int) -> list[list[int]]:
    """Return which of the lists each rank gets, given their lengths: dealt by turns, the longest first.

    No list is parted, and no rank gets more than one list more than another.
    """
    order = sorted(range(len(lists)), key=lambda n: (-lists[n], n))
    return [sorted(order[rank::world]) for rank in range(world)]
