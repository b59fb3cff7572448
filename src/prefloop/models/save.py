"""Writes a model as a Hugging Face folder, which transformers and every tool around it reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefloop.models.tokenization import Tokenization, name_end


def save_pretrained(model: Any, tokenization: Tokenization, folder: Path) -> None:
    """Write a Hugging Face folder: config, safetensors, tokenizer, generation config."""
    name_end(model, tokenization)
    model.save_pretrained(folder)
    tokenization.save(str(folder))
