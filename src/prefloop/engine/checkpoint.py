"""Writes checkpoints that survive a kill at any moment: written aside, fsynced, renamed.

They are safetensors, not pickles. Several ranks write a folder of pieces in place of each file (`sharded_checkpoint`).

    checkpoints/step-00000040/   policy.safetensors  policy.adam.safetensors ...  state.json (every file's SHA-256)

A folder whose name begins with a dot is unfinished. Older checkpoints go only after a newer one is durable.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from prefloop.engine.processes import joined
from prefloop.errors import TrainingError

KEEP = 2
FORMAT = 3  # A checkpoint states this version of its contents; those before 2 did not.
SHARDED = 4  # So does one whose tensors are in pieces.


@dataclass(frozen=True)
class Checkpoint:
    step: int
    files: Mapping[str, Mapping[str, Tensor]]
    state: Mapping[str, Any]


class Pieces(Mapping[str, Mapping[str, Tensor]]):
    """Is the state of models that no process holds as a whole, by file: it can save itself."""

    @abstractmethod
    def save(self, root: Path, step: int, state: Mapping[str, Any]) -> None:
        """Do what `save_checkpoint` does."""


class Stored(Mapping[str, Mapping[str, Tensor]]):
    """Holds the files of a checkpoint, which are read when they are asked for."""

    def __init__(self, folder: Path, body: Mapping[str, Any]):
        self.folder, self.sharded = folder, body["format"] == SHARDED
        self.names = sorted({Path(name).parts[0].removesuffix(".safetensors") for name in body["files"]})

    def __getitem__(self, name: str) -> Mapping[str, Tensor]:
        if self.sharded:
            from prefloop.engine.sharded_checkpoint import read_whole  # It loads much of torch.distributed.

            return read_whole(self.folder / name)
        return load_file(self.folder / f"{name}.safetensors")

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def publish(folder: Path, write: Callable[[Path], None]) -> None:
    """Make `folder` by writing a sibling, fsyncing all of it and renaming. A previous folder stays until then."""
    tmp = folder.with_name(f".{folder.name}.new")
    old = folder.with_name(f".{folder.name}.old")
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove(tmp)
    if old.exists() and not folder.exists():  # The process was killed between the two renames below.
        old.rename(folder)
    _remove(old)
    tmp.mkdir()
    try:
        write(tmp)
        for path in sorted(tmp.rglob("*")):
            _fsync(path)
        _fsync(tmp)
    except (OSError, SafetensorError) as error:  # A full disk raises either.
        _remove(tmp)
        raise TrainingError(f"{folder} could not be written: {error}. What was saved before is still there.") from error
    if folder.exists():
        folder.rename(old)
    tmp.rename(folder)
    _fsync(folder.parent)
    _remove(old)


def save_checkpoint(root: Path, step: int, files: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> None:
    """Write one checkpoint, then drop all but the newest two."""
    if isinstance(files, Pieces):
        return files.save(root, step, state)

    def write(tmp: Path) -> None:
        hashes = {}
        for name, tensors in files.items():
            path = tmp / f"{name}.safetensors"
            save_file(_apart(tensors), path)
            hashes[path.name] = sha256(path)
        seal(tmp, FORMAT, step, hashes, state)

    publish(folder_of(root, step), write)
    drop_older(root, step)


def folder_of(root: Path, step: int) -> Path:
    return root / f"step-{step:08d}"


def seal(tmp: Path, format: int, step: int, hashes: Mapping[str, str], state: Mapping[str, Any]) -> None:
    """Write what belongs to a checkpoint beside its tensors. hashes: the SHA-256 of every file"""
    body = {"format": format, "step": step, "files": dict(hashes), "state": dict(state)}
    (tmp / "state.json").write_text(json.dumps(body | {"sha256": hash_of(body)}, indent=1, sort_keys=True))


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors as the format wants them: contiguous, and without shared memory. It copies only what is not so."""
    found, seen = {}, set()
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage()
        whole = tensor.is_contiguous() and storage.nbytes() == tensor.nbytes and storage.data_ptr() not in seen
        seen.add(storage.data_ptr())
        found[name] = tensor if whole else tensor.contiguous().clone()
    return found


def drop_older(root: Path, step: int) -> None:
    """Remove what is older than the newest two checkpoints, and than the one of this step."""
    for old in _steps(root)[:-KEEP]:
        if old.name < folder_of(root, step).name:
            _remove(old)


def load_checkpoint(root: Path) -> Checkpoint | None:
    """Return the newest checkpoint whose every file is undamaged; None if there is none. A damaged one is passed over.

    What a process that was killed while it dropped older ones has left is dropped now.
    Raises TrainingError where an undamaged one was written by a prefloop whose checkpoints hold something else.
    """
    for folder in reversed(_steps(root)):
        try:
            found = _load(folder)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError):
            continue
        if found is not None:
            drop_older(root, found.step)
            return found
    return None


def _load(folder: Path) -> Checkpoint | None:
    """Return a checkpoint; None where a hash does not fit."""
    body = dict(json.loads((folder / "state.json").read_text()))
    if body.pop("sha256") != hash_of(body) or any(sha256(folder / n) != want for n, want in body["files"].items()):
        return None
    if body.get("format") not in (FORMAT, SHARDED):
        raise TrainingError(
            f"{folder} was written by another version of prefloop, and this one cannot go on from it. Finish the run "
            "with that version, or begin another one with --new."
        )
    files: Mapping[str, Mapping[str, Tensor]] = Stored(folder, body)
    return Checkpoint(int(body["step"]), files if joined() else dict(files), body["state"])


def hash_of(body: Mapping[str, Any]) -> str:
    """Return a hash over what a file of JSON says, because a flipped digit would still be JSON."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _steps(root: Path) -> list[Path]:
    return sorted(p for p in root.glob("step-*") if p.is_dir()) if root.is_dir() else []


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)
