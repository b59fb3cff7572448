"""Writes a model as a Hugging Face folder, which transformers and every tool around it reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefloop.models.adapter_folder import INSIDE
from prefloop.models.lora import has_adapter, merged, save_adapter
from prefloop.models.tokenization import Tokenization, name_end


def save_pretrained(model: Any, tokenization: Tokenization, folder: Path, adapter_alone: bool = False) -> None:
    """Write a Hugging Face folder: config, safetensors, tokenizer, generation config.

    A model with an adapter is written with the adapter added to its weights, so that nothing has to know of it. The
    adapter itself stands in a folder inside, as peft and servers read it; `adapter_alone` writes nothing else.
    """
    name_end(model, tokenization)
    if has_adapter(model):
        inside = folder / INSIDE
        save_adapter(model, inside)
        model.config.save_pretrained(inside)
        tokenization.save(str(inside))
        if adapter_alone:
            return
        model = merged(model)
    model.save_pretrained(folder)
    tokenization.save(str(folder))
