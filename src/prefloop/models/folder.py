"""What a model folder must hold, seen from outside: no torch, nothing loaded, nothing run."""

from __future__ import annotations

import os
from pathlib import Path

from prefloop.errors import ModelError

# files that any of transformers' tokenizers can be made from; an entry with a dot in front is an ending
_TOKENIZERS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
    "tekken.json",
    ".model",
    ".tiktoken",
)


def check_folder(source: str | Path) -> str:
    """Refuse what would fail obscurely later. A name that is no folder is taken for a hub id."""
    folder = Path(source)
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
