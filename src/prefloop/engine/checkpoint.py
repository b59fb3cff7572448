"""Checkpoints that survive a kill at any moment: written aside, fsynced, renamed; safetensors, nothing unpickled.

    checkpoints/step-00000040/   policy.safetensors  policy.adam.safetensors ...  state.json (with every file's SHA-256)

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
    if old.exists() and not folder.exists():  # killed between the two renames below
        old.rename(folder)
    _remove(old)
    tmp.mkdir()
    try:
        write(tmp)
        for path in sorted(tmp.rglob("*")):
            _fsync(path)
        _fsync(tmp)
    except OSError as error:
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
            save_file({k: v.contiguous().clone() for k, v in tensors.items()}, path)
            hashes[path.name] = _sha256(path)
        body = json.dumps({"step": step, "files": hashes, "state": dict(state)}, indent=1, sort_keys=True)
        (tmp / "state.json").write_text(body)

    publish(root / f"step-{step:08d}", write)
    for old in _steps(root)[:-KEEP]:
        _remove(old)


def load_checkpoint(root: Path) -> Checkpoint | None:
    """The newest checkpoint whose every file is whole; none if there is none. A damaged one is passed over."""
    for folder in reversed(_steps(root)):
        try:
            body = json.loads((folder / "state.json").read_text())
            if any(_sha256(folder / name) != want for name, want in body["files"].items()):
                continue
            files = {name.removesuffix(".safetensors"): load_file(folder / name) for name in body["files"]}
        except (OSError, ValueError, KeyError, SafetensorError):
            continue
        return Checkpoint(int(body["step"]), files, body["state"])
    return None


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
