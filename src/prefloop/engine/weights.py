"""Publishes versions of a policy's weights for servers that sample: immutable folders, named by what they hold.

    weights/3f0c.../   manifest.json (every file's SHA-256, and its own)   model/ (a Hugging Face folder)

A version is written aside, fsynced and renamed, so that whoever finds its folder finds all of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from prefloop.engine.checkpoint import hash_of, publish, sha256
from prefloop.errors import ModelError
from prefloop.models.adapter_folder import INSIDE

KEEP = 4  # The policy's and the reference's may both be in use, each beside the one before.
FORMAT = 1


@dataclass(frozen=True)
class Version:
    """Is one published version. name: what identifies its weights"""

    name: str
    folder: Path

    @property
    def model(self) -> Path:
        """Return its Hugging Face folder."""
        return self.folder / "model"

    @property
    def adapter(self) -> Path | None:
        """Return the folder of its adapter, if the policy is trained as one."""
        return found if (found := self.model / INSIDE).is_dir() else None


def publish_version(root: Path, name: str, save: Callable[[Path], None]) -> Version:
    """Return the version `name`, which `save` writes where it is not there yet, whole. Older ones are dropped."""
    version = Version(name, root / name)

    def write(tmp: Path) -> None:
        save(tmp / "model")
        files = {str(p.relative_to(tmp)): sha256(p) for p in sorted(tmp.rglob("*")) if p.is_file()}
        body = {"format": FORMAT, "version": name, "files": files}
        (tmp / "manifest.json").write_text(json.dumps(body | {"sha256": hash_of(body)}, indent=1, sort_keys=True))

    try:
        check_version(version)
        os.utime(version.folder)
    except ModelError:  # It is not there, or damaged.
        publish(version.folder, write)
    _drop_older(root)
    return version


def _drop_older(root: Path) -> None:
    """Remove all but the newest versions. A server that reads one now fails, and is asked again."""
    found = sorted((p for p in root.iterdir() if (p / "manifest.json").is_file()), key=lambda p: p.stat().st_mtime_ns)
    for old in found[:-KEEP]:
        with suppress(OSError):
            shutil.rmtree(old)


def read_manifest(folder: Path) -> Mapping[str, Any]:
    """Return what a version's manifest says. Raises ModelError where it is damaged, or not there."""
    try:
        body = dict(json.loads((folder / "manifest.json").read_text()))
    except FileNotFoundError:
        raise ModelError(
            f"{folder} holds no published weights, or cannot be seen here. Trainer and servers need one folder under "
            "one path: set [rollout] weights to a folder that they share."
        ) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder}/manifest.json cannot be read: {error}") from None
    if body.pop("sha256", None) != hash_of(body):
        raise ModelError(f"{folder}/manifest.json is damaged: it is not what its own hash says")
    if body.get("format") != FORMAT:
        raise ModelError(f"{folder} was published by another version of prefloop. Use one version on all machines.")
    return body


def read_version(folder: Path) -> tuple[str, dict[str, Tensor]]:
    """Return a version's name and its tensors, all of which are what the manifest says. Raises ModelError."""
    manifest = read_manifest(folder)
    tensors: dict[str, Tensor] = {}
    for file, wanted in manifest["files"].items():
        data = _read(folder / file, wanted)
        if Path(file).match("model/*.safetensors"):  # An adapter in a folder of its own is in these weights already.
            try:
                tensors |= load(data)
            except SafetensorError as error:
                raise ModelError(f"{folder / file} holds no tensors: {error}") from None
    return manifest["version"], tensors


def check_version(version: Version) -> None:
    """Raise ModelError where a file is not what was published, for a server that does not look itself."""
    for file, wanted in read_manifest(version.folder)["files"].items():
        try:
            found = sha256(version.folder / file)
        except OSError as error:
            raise ModelError(f"{version.folder / file} cannot be read: {error}") from None
        if found != wanted:
            raise _damaged(version.folder / file)


def put_into(model: nn.Module, tensors: Mapping[str, Tensor], where: Path) -> None:
    """Copy a version's tensors into a model, all or none. Raises ModelError where they are another model's."""
    own = model.state_dict()
    shared = {t.data_ptr(): n for n, t in own.items() if n in tensors}
    unknown = sorted(tensors.keys() - own.keys())
    missing = sorted(n for n, t in own.items() if n not in tensors and t.data_ptr() not in shared)
    other = [n for n, t in tensors.items() if n in own and (t.shape, t.dtype) != (own[n].shape, own[n].dtype)]
    if unknown or missing or other:
        name = (unknown + missing + other)[0]
        theirs, ours = (
            f"{t.dtype} {tuple(t.shape)}" if t is not None else "none" for t in (tensors.get(name), own.get(name))
        )
        raise ModelError(
            f"the weights in {where} are of another model than this server's: {name} is {theirs} there and {ours} "
            "here. Start the server with the model that is trained, and with its dtype."
        )
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)


def _read(path: Path, wanted: str) -> bytes:
    """Return a file's bytes, hashed and used as one, so that nothing can come in between."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error}") from None
    if hashlib.sha256(data).hexdigest() != wanted:
        raise _damaged(path)
    return data


def _damaged(path: Path) -> ModelError:
    return ModelError(f"{path} is damaged: its SHA-256 is not what the manifest says")
