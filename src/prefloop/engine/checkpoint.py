"""Writes checkpoints that survive a kill at any moment: written aside, fsynced, renamed.

They are safetensors, not pickles.

    checkpoints/step-00000040/   policy.safetensors  policy.adam.safetensors ...  state.json (every file's SHA-256)

A folder whose name begins with a dot is unfinished. Older checkpoints go only after a newer one is durable.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from prefloop.errors import TrainingError

KEEP = 2
FORMAT = 3  # A checkpoint states this version of its contents; those before 2 did not.


@dataclass(frozen=True)
class Checkpoint:
    step: int
    files: Mapping[str, Mapping[str, Tensor]]
    state: Mapping[str, Any]


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

    def write(tmp: Path) -> None:
        hashes = {}
        for name, tensors in files.items():
            path = tmp / f"{name}.safetensors"
            save_file(_apart(tensors), path)
            hashes[path.name] = _sha256(path)
        body = {"format": FORMAT, "step": step, "files": hashes, "state": dict(state)}
        (tmp / "state.json").write_text(json.dumps(body | {"sha256": _seal(body)}, indent=1, sort_keys=True))

    publish(root / f"step-{step:08d}", write)
    _drop_older(root, step)


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors as the format wants them: contiguous, and without shared memory. It copies only what is not so."""
    found, seen = {}, set()
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage()
        whole = tensor.is_contiguous() and storage.nbytes() == tensor.nbytes and storage.data_ptr() not in seen
        seen.add(storage.data_ptr())
        found[name] = tensor if whole else tensor.contiguous().clone()
    return found


def _drop_older(root: Path, step: int) -> None:
    """Remove what is older than the newest two checkpoints, and than the one of this step."""
    for old in _steps(root)[:-KEEP]:
        if old.name < f"step-{step:08d}":
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
            _drop_older(root, found.step)
            return found
    return None


def _load(folder: Path) -> Checkpoint | None:
    """Return a checkpoint; None where a hash does not fit."""
    body = dict(json.loads((folder / "state.json").read_text()))
    if body.pop("sha256") != _seal(body) or any(_sha256(folder / n) != want for n, want in body["files"].items()):
        return None
    if body.get("format") != FORMAT:
        raise TrainingError(
            f"{folder} was written by another version of prefloop, and this one cannot go on from it. Finish the run "
            "with that version, or begin another one with --new."
        )
    files = {name.removesuffix(".safetensors"): load_file(folder / name) for name in body["files"]}
    return Checkpoint(int(body["step"]), files, body["state"])


def _seal(body: Mapping[str, Any]) -> str:
    """Return a hash over what state.json says, because a flipped digit would still be JSON."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _steps(root: Path) -> list[Path]:
    return sorted(p for p in root.glob("step-*") if p.is_dir()) if root.is_dir() else []


def _sha256(path: Path) -> str:
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
