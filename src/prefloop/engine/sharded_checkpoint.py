"""Writes and reads checkpoints of models in pieces, by torch's DCP in safetensors: each rank writes and reads its own.

    step-00000040/   policy/shard-00001-model-00001-of-00001.safetensors ...   state.json (every file's SHA-256)

Any number of ranks goes on from what any other number wrote, and so does one process. DCP's own metadata would be a
pickle, which is not written. The files are for going on; other programs read what `Engine.save` writes.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.tensor import DTensor

from prefloop.engine.checkpoint import SHARDED, Stored, drop_older, folder_of, publish, seal, sha256
from prefloop.engine.processes import Ranks, named_when_lost
from prefloop.engine.shard import piece_like
from prefloop.errors import TrainingError

Files = Mapping[Any, Mapping[str, Tensor]]  # tensors by file and name
LARGEST_FILE = 64 << 20  # bytes of a file, but for a tensor that is larger


def save_sharded(ranks: Ranks, root: Path, step: int, files: Files, state: Mapping[str, Any]) -> None:
    """Write one checkpoint by all ranks, then drop all but the newest two. Raises TrainingError on all ranks."""
    if ranks.rank:
        told = ranks.main.from_first()  # the folder, or why there is none
        if isinstance(told, Path):
            _write(ranks, told, files)
            told = ranks.main.from_first()
        if told is not None:
            raise told
        return

    def write(tmp: Path) -> None:
        ranks.main.from_first(tmp)
        hashes, problem = _write(ranks, tmp, files)
        if problem:
            raise OSError(problem)
        seal(tmp, SHARDED, step, hashes, state)

    try:
        publish(folder_of(root, step), write)
    except (TrainingError, OSError) as error:
        ranks.main.from_first(TrainingError(str(error)))
        raise
    ranks.main.from_first(None)
    drop_older(root, step)


def _write(ranks: Ranks, tmp: Path, files: Files) -> tuple[dict[str, str], str]:
    """Write this rank's pieces. Return the SHA-256 of every file of all ranks, and what went wrong on any of them."""
    hashes: dict[str, str] = {}
    problem = ""
    try:
        with named_when_lost():
            for name in sorted(files):
                writer = HuggingFaceStorageWriter(str(tmp / name), _places(files[name]), save_distributed=True)
                state_dict_saver.save(dict(files[name]), storage_writer=writer, process_group=ranks.main.results)
        mine = (path for name in files for path in (tmp / name).glob(f"shard-{ranks.rank + 1:05d}-*"))
        hashes = {path.relative_to(tmp).as_posix(): sha256(path) for path in mine}
    except (CheckpointException, OSError) as error:
        problem = f"rank {ranks.rank}: {str(error).strip().splitlines()[-1]}"
    every = ranks.main.gathered((hashes, problem))
    return {n: h for some, _ in every for n, h in some.items()}, next((said for _, said in every if said), "")


def _places(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Return in which file of a rank each tensor stands, from 1 on. DCP holds a file in memory while it writes it."""
    places, size, place = {}, 0, 1
    for name, x in tensors.items():
        mine = x.to_local().nbytes if isinstance(x, DTensor) else x.nbytes
        if size and size + mine > LARGEST_FILE:
            size, place = 0, place + 1
        size += mine
        places[name] = place
    return places


def read_whole(folder: Path) -> dict[str, Tensor]:
    """Return the whole tensors of a folder of pieces, in one process."""
    known: Any = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    found = {name: torch.empty(one.size, dtype=one.properties.dtype) for name, one in known.items()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # It is meant.
        state_dict_loader.load(found, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
    return found


def read_pieces(ranks: Ranks, stored: Stored, weights: Files) -> dict[str, dict[str, Tensor]]:
    """Return the files of a checkpoint, where tensors that belong to weights in pieces are in pieces like these.

    weights: those that learn, by role and name
    """
    return {name: (_of_pieces if stored.sharded else _of_file)(ranks, stored, name, weights) for name in stored}


def _of_pieces(ranks: Ranks, stored: Stored, file: str, weights: Files) -> dict[str, Tensor]:
    folder = str(stored.folder / file)
    known: Any = HuggingFaceStorageReader(folder).read_metadata().state_dict_metadata
    found: dict[str, Tensor] = {}
    for name, one in known.items():
        like = _like(weights, file, name)
        dtype = one.properties.dtype
        found[name] = torch.empty(one.size, dtype=dtype) if like is None else torch.empty_like(like, dtype=dtype)
    with named_when_lost():
        state_dict_loader.load(found, storage_reader=HuggingFaceStorageReader(folder), process_group=ranks.main.results)
    return found


def _of_file(ranks: Ranks, stored: Stored, file: str, weights: Files) -> dict[str, Tensor]:
    with safe_open(stored.folder / f"{file}.safetensors", "pt") as opened:
        return cut(file, {name: opened.get_tensor(name) for name in opened.keys()}, weights)  # noqa: SIM118


def cut(file: str, tensors: Mapping[str, Tensor], weights: Files) -> dict[str, Tensor]:
    """Return whole tensors of a file, where those that belong to weights in pieces are cut like these."""
    found = {}
    for name, tensor in tensors.items():
        like = _like(weights, file, name)
        found[name] = tensor if like is None else piece_like(like, tensor)
    return found


def _like(weights: Files, file: str, name: str) -> DTensor | None:
    """Return the weight in pieces that a tensor of a file belongs to: itself, its average, or a moment of AdamW's."""
    role, _, kind = file.partition(".")
    if kind == "adam":
        name, _, slot = name.rpartition(".")
        if slot == "step":
            return None
    found = weights.get(role, {}).get(name)
    return found if isinstance(found, DTensor) else None
