"""Says for how many rows at a time the keys and values of a model's texts fit into memory."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from prefloop.errors import TrainingError
from prefloop.kernels.memory import free_memory, total_memory

OF_ALL = 0.25  # So much of a device's memory is for keys and values, however much is free: the rest learns later.
OF_FREE = 0.8  # Of what is free now, so much may be taken.


def rows_that_fit(model: PreTrainedModel, wanted: int, tokens: int, free: int | None = None) -> int:
    """Return how many rows of up to `tokens` tokens can grow at a time: `wanted`, or fewer where memory is short.

    free: bytes that are free; None = look
    Raises TrainingError where not even one row fits.
    """
    device = str(model.device)
    each = cache_bytes(model.config, model.dtype, tokens)
    if not each or not wanted:
        return wanted
    free = free_memory(device) if free is None else free
    if each > free:
        raise TrainingError(
            f"one text of {tokens} tokens needs {each / 1e9:.1f} GB for its keys and values, and {free / 1e9:.1f} GB "
            f"are free on {device}. Lower max_tokens, or leave out long prompts; prefloop plan shows what else is held."
        )
    rows = min(OF_ALL * total_memory(device), OF_FREE * free) // each
    # A power of two stays the same where a little more or less is free, and with it the rounding of the samples.
    return wanted if rows >= wanted else 1 << max(0, int(rows).bit_length() - 1)


def cache_bytes(config: Any, dtype: torch.dtype, tokens: int) -> int:
    """Return the bytes of a row's keys and values; 0 for a model that keeps none.

    A layer with a sliding window keeps no more tokens than that; a layer with linear attention keeps none.
    """
    text = config.get_text_config()
    heads = getattr(text, "num_attention_heads", None)
    if not heads:
        return 0
    kv_heads = getattr(text, "num_key_value_heads", None) or heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // heads
    kinds = getattr(text, "layer_types", None) or ["full_attention"] * text.num_hidden_layers
    window = getattr(text, "sliding_window", None) or tokens
    kept = {"full_attention": tokens, "sliding_attention": min(tokens, window), "linear_attention": 0}
    return int(2 * sum(kept.get(kind, tokens) for kind in kinds) * kv_heads * head_dim * dtype.itemsize)
