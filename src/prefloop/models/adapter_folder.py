"""Reads what an adapter's folder says of itself, without torch: a folder as peft writes it.

It holds adapter_config.json, adapter_model.safetensors and, where prefloop wrote it, config and tokenizer. The weights
of the model that it is for are in another folder.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefloop.errors import ModelError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
INSIDE = "adapter"  # A model that was trained as an adapter has the adapter in this folder of its own.
_BASE = "base_model_name_or_path"
_NOTE = "prefloop.json"  # what prefloop writes beside an adapter: the base's weights, and the way to the base


@dataclass(frozen=True)
class AdapterFolder:
    """Names an adapter.

    base:       the Hugging Face folder or hub id of the model that it is for
    trained_on: what identifies the weights of that model; None where another program wrote the adapter
    """

    path: Path
    base: str
    trained_on: str | None


def write_note(folder: Path, base: str, trained_on: str) -> None:
    """Write what an adapter was trained on beside it. A project that is moved finds the base by the way to it."""
    way = os.path.relpath(base, folder) if Path(base).is_dir() else None
    (folder / _NOTE).write_text(json.dumps({"base_weights": trained_on, "way_to_base": way}, indent=1))


def _note(folder: Path) -> dict[str, str | None]:
    """Return what is beside an adapter; nothing where another program wrote it."""
    path = folder / _NOTE
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"{path} cannot be read ({error}). Put it back from a backup, or take it away.") from error


def is_adapter(folder: str | Path) -> bool:
    """Return whether a folder holds an adapter, and not a whole model."""
    return (Path(folder) / CONFIG).is_file()


def adapter_at(source: str | Path) -> AdapterFolder | None:
    """Return the adapter that a source is, if it is one. Raises ModelError for one that cannot be read."""
    return read_adapter(Path(source)) if is_adapter(source) else None


def adapter_in(source: str | Path) -> AdapterFolder | None:
    """Return the adapter that a source is, or that a model of prefloop was trained as; None for an ordinary model."""
    return adapter_at(source) or adapter_at(Path(source) / INSIDE)


def read_adapter(folder: Path) -> AdapterFolder:
    """Return the adapter in a folder. Raises ModelError where it is no LoRA adapter, or its base is not there."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        kind, base = str(config["peft_type"]), config.get(_BASE)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder / CONFIG} cannot be read ({type(error).__name__}: {error}).") from error
    if kind != "LORA":
        raise ModelError(
            f"{folder} is an adapter of the kind {kind}. prefloop reads LoRA and DoRA: merge this one into its base "
            "with peft (merge_and_unload), and give the merged folder."
        )
    if not (folder / WEIGHTS).is_file():
        raise ModelError(f"{folder} has no {WEIGHTS}. Save the adapter again with save_pretrained, as safetensors.")
    if not base:
        raise ModelError(
            f"{folder / CONFIG} does not say which model the adapter is for. Write the model's folder or hub id into "
            f'it as "{_BASE}".'
        )
    note = _note(folder)
    return AdapterFolder(folder, _place(folder, str(base), note.get("way_to_base")), note.get("base_weights"))


def said_of_itself(folder: Path) -> dict[str, Any]:
    """Return what a reward model's config says beside the architecture: how it normalises, and its pad token."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # Other programs write none.
        return {}
    return {name: config[name] for name in ("prefloop_reward", "pad_token_id") if name in config}


def _place(folder: Path, base: str, way: str | None) -> str:
    """Return the base where it is found: by the way from the adapter, or as it is written. Other names are hub ids.

    The way comes first, so that a copy of a project is read by itself.
    """
    for place in (folder / (way or base), Path(base)):
        if place.is_dir():
            if is_adapter(place):
                raise ModelError(
                    f"{folder} is an adapter for {place}, which is an adapter itself. Merge that one into its base "
                    "(peft: merge_and_unload), and train on the merged folder."
                )
            return str(place.resolve())
    if Path(base).is_absolute() or base.startswith(".") or base.count("/") > 1:
        raise ModelError(
            f"{folder} is an adapter for the model in {base}, and there is no such folder. Put the model there, or "
            f'write where it is now into {folder / CONFIG} ("{_BASE}").'
        )
    return base
