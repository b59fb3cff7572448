"""Starts torchrun for a command, on this machine: as many processes of the same command as there are ranks.

A rank that dies ends the group, and torchrun starts all ranks again, which go on from the last checkpoint. An error
that would come again (a wrong setting, a run that cannot go on) is told in a file, and ends the group for good.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

from prefloop.engine.process import cores
from prefloop.errors import ConfigError, RankError

RESTARTS = 3
SINGLE_STORE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"  # With it every attempt of torchrun's has a store of its own.
ENDED = "PREFLOOP_ENDED"  # It names the file with the exit code of the command, once rank 0 is done with it.
_OF_RANKS = re.compile(
    f"((LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)|ROLE_NAME|MASTER_(ADDR|PORT)|TORCHELASTIC_.*|{ENDED})"
)


def wanted(ranks: int | str, device: str) -> int:
    """Return how many ranks `[project] ranks` means on this machine. Raises ConfigError where that is too many."""
    if ranks == 1:
        return 1
    import torch

    gpus = torch.cuda.device_count() if device != "cpu" else 0
    if device.startswith("cuda:"):
        raise ConfigError(f'[project] device = "{device}" is for one rank: write "cuda", and each rank takes its own.')
    if ranks == "auto":
        return max(1, gpus)
    if gpus and int(ranks) > gpus:
        raise ConfigError(
            f"[project] ranks = {ranks}, but this machine has {gpus} GPUs. On several machines torchrun starts the "
            "ranks: examples/slurm.sh shows how."
        )
    return int(ranks)


def run(ranks: int, argv: Sequence[str], threads: int = 0) -> int:
    """Run this command by so many ranks; return its exit code. Raises RankError where they die again and again."""
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch

    os.environ.setdefault("OMP_NUM_THREADS", str(threads or max(1, cores() // ranks)))
    os.environ[SINGLE_STORE] = "1"
    logging.getLogger("torch.distributed.elastic").setLevel(logging.ERROR)
    meet = ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", f"--rdzv-id={uuid4()}"]
    how = [*meet, f"--nproc-per-node={ranks}", f"--max-restarts={RESTARTS}", "--monitor-interval=0.2"]
    with TemporaryDirectory(prefix="prefloop-") as folder:
        ended = Path(folder) / "code"
        os.environ[ENDED] = str(ended)
        try:
            config, python, module = torchrun.config_from_args(torchrun.parse_args([*how, "-m", "prefloop"]))
            elastic_launch(config, python)(*module, *argv)  # torchrun would take options such as --n for its own.
        except SignalException as error:
            raise KeyboardInterrupt from error
        except ChildFailedError as error:
            if not ended.exists():
                raise RankError(
                    f"a rank died, also after {RESTARTS} new starts; what it said stands above. The last checkpoint is "
                    "kept: the same command goes on from there."
                ) from error
        finally:
            del os.environ[ENDED]
        return int(ended.read_text()) if ended.exists() else 0


def alone() -> dict[str, str]:
    """Return the environment for a program that this process starts: it is no rank, and can't end the command."""
    return {name: value for name, value in os.environ.items() if not _OF_RANKS.fullmatch(name)}


def restarts() -> bool:
    """Return whether this process is started again if it dies."""
    return ENDED in os.environ


def has_ended() -> bool:
    """Return whether the command of this rank came to its end before the group was started again."""
    return os.path.exists(os.environ.get(ENDED, ""))


def exit_code(code: int) -> int:
    """Return with which code this process ends if a command ended with `code`; 0 keeps torchrun from a restart."""
    file = os.environ.get(ENDED)
    if not file or os.environ.get("RANK") != "0" or code == RankError.exit_code:
        return code
    Path(file).write_text(str(code))
    return 0
