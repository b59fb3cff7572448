"""Checks model folders without torch: nothing is loaded and nothing is run."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from prefloop.config import Model
from prefloop.errors import ConfigError, ModelError
from prefloop.models.adapter_folder import adapter_at

# From these files transformers can make a tokenizer; an entry that starts with a dot is a file name's ending.
_TOKENIZERS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
    "tekken.json",
    ".model",
    ".tiktoken",
)

# Loading a model may read files with these endings; other files, such as a note, do not matter.
_READ = (".safetensors", ".json", ".jinja", ".model", ".tiktoken", ".txt", ".py")


def file_hashes(folder: Path) -> dict[str, str]:
    """Return {path relative to the folder: SHA-256} of every file in it."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                found[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def file_hash(folder: Path) -> str:
    """Return a hash over the weights, config and tokenizer files of a folder, which identifies the model.

    An adapter's is also over those of its base, where that is a folder.
    """
    total = hashlib.sha256()
    if (adapter := adapter_at(folder)) is not None and Path(adapter.base).is_dir():
        total.update(file_hash(Path(adapter.base)).encode())
    for path in sorted(folder.iterdir()):
        if path.suffix in (".safetensors", ".json") and path.is_file():
            total.update(path.name.encode())
            with path.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:16]


def has_weights(folder: Path) -> bool:
    """Return whether a folder that prefloop saved a model in still has weights."""
    return any(folder.glob("*.safetensors"))


def gone(folder: Path, version: str) -> ModelError:
    """Return the error for a registered model whose folder or weights are missing, with advice."""
    what = f"what was in {folder}" if folder.is_dir() else str(folder)
    other = ", or take another run of its round ([run] choose, or --run)" if version.startswith("align-") else ""
    return ModelError(
        f"{what} is gone, and {version} with it. Put the folder back from a backup, or run its stage again{other}."
    )


def check_files(folder: Path, registered: Mapping[str, str], version: str) -> None:
    """Compare a model's files with those that were registered. Raises ModelError that names each difference."""
    found = file_hashes(folder)
    changed = [name for name, hashed in registered.items() if found.get(name, hashed) != hashed]
    missing = [name for name in registered if name not in found]
    new = [name for name in found if name not in registered and name.endswith(_READ)]
    kinds = {"changed": changed, "missing": missing, "new": new}
    said = [f"{', '.join(names[:5])} {what}" for what, names in kinds.items() if names]
    if said:
        raise ModelError(
            f"{folder} is not what was registered as {version}: {'; '.join(said)}. Put its files back from a backup, "
            "or move the run's folder away and run its stage again."
        )


def check_folder(source: str | Path) -> str:
    """Return the source as text, if it can be loaded. A name that is not a folder is taken for a hub id.

    Raises ModelError for a folder without config, weights in safetensors, or tokenizer. Of an adapter, its base needs
    them.
    """
    folder = Path(source)
    if (adapter := adapter_at(folder)) is not None:
        check_folder(adapter.base)
        return str(folder)
    if not folder.is_dir():
        if folder.is_absolute() or str(source).startswith((".", "~")) or folder.exists():
            raise ModelError(f"{source} is not a folder. Give a Hugging Face model folder or a hub id (owner/name).")
        return str(source)
    names = set(os.listdir(folder))
    if "config.json" not in names:
        raise ModelError(f"{folder} has no config.json: it is not a Hugging Face model folder.")
    weights = [n for n in names if n.endswith((".safetensors", ".safetensors.index.json"))]
    pickles = sorted(n for n in names if n.endswith((".bin", ".pt", ".pth", ".ckpt")))
    if not weights and pickles:
        raise ModelError(
            f"{folder} has its weights only as pickle ({', '.join(pickles[:3])}), which can run code when loaded. "
            "Convert them to safetensors first: model.save_pretrained(FOLDER) with transformers, on a machine you "
            "can lose."
        )
    if not weights:
        raise ModelError(f"{folder} has no weights (*.safetensors).")
    if not any(name in names or name.startswith(".") and any(n.endswith(name) for n in names) for name in _TOKENIZERS):
        raise ModelError(
            f"{folder} has no tokenizer. Put its tokenizer.json (or the vocabulary its tokenizer_config.json names) "
            "beside the weights: tokenizer.save_pretrained(FOLDER)."
        )
    return str(folder)


_SIZES = {  # These are the sizes of a model made from scratch: {setting of [model]: its name in config.json}.
    "hidden_size": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "context": "max_position_embeddings",
}


def check_sizes(folder: Path, settings: Model) -> None:
    """Raise ConfigError where the settings name other sizes than a model from scratch was made with."""
    made = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for key, name in _SIZES.items():
        if name in made and made[name] != getattr(settings, key):
            raise ConfigError(
                f"[model] {key} = {getattr(settings, key)} would have no effect: the model in {folder} was made "
                f"with {made[name]}. Put it back, or make another project (prefloop init)."
            )
