"""Loads models from Hugging Face folders and hub ids. Errors say what to do, and nothing is unpickled."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from prefloop.config import Model
from prefloop.errors import ModelError
from prefloop.models.adapter_folder import adapter_at, adapter_in
from prefloop.models.folder import check_folder
from prefloop.models.four_bit import quantise
from prefloop.models.lora import load_adapter, merged
from prefloop.models.tokenization import Tokenization, make_tokenization

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
DROPOUT_RATES = ("dropout", "_pdrop", "layerdrop")  # Attributes that hold a rate end like this.


def load_causal(source: str | Path, settings: Model = Model()) -> tuple[PreTrainedModel, Tokenization]:  # noqa: B008 -- frozen
    """Return a causal language model, with dropout off, and its tokenization. Raises ModelError.

    Of a folder with an adapter it is the adapter's base, with the adapter added to a copy of its weights. With `[model]
    load_in_4bit` a model that an adapter may stand on has the weights that it has in 4 bits, as ordinary ones. What was
    trained as an adapter has them already.
    """
    adapter = adapter_at(source)
    model = from_pretrained(AutoModelForCausalLM, source if adapter is None else adapter.base, settings)
    in_4bit = settings.load_in_4bit and (adapter is not None or adapter_in(source) is None)
    if in_4bit:
        quantise(model)
    if adapter is not None:
        load_adapter(model, adapter)
    if adapter is not None or in_4bit:
        model = merged(model).requires_grad_(True)
    tokenizer = load_tokenizer(source, settings)
    disable_dropout(model)
    return model, make_tokenization(tokenizer, model, settings.chat)


def from_pretrained(kind: Any, source: str | Path, settings: Model, fresh: tuple[str, ...] = (), **extra: Any) -> Any:
    """Call `kind.from_pretrained` for safetensors only. Raises ModelError with the reason in plain words.

    fresh: prefixes of the names of weights that may be missing in the folder; they are initialised at random
    """
    where = check_folder(source)
    # Progress bars and load reports of transformers are turned off; what matters in them becomes an error below.
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        model, report = kind.from_pretrained(
            where,
            dtype=DTYPES[settings.dtype],
            revision=settings.revision or "main",
            trust_remote_code=settings.trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
            **extra,
        )
    except Exception as error:
        raise ModelError(_advice(str(where), error)) from error
    missing = sorted(name for name in report["missing_keys"] if not name.startswith(fresh))
    if missing:  # transformers would go on with random numbers.
        raise ModelError(
            f"{source} has no weights for {len(missing)} parts of a {type(model).__name__}, such as {missing[0]}. Is "
            "it another kind of model, or were its weights saved under other names? Save it again with save_pretrained."
        )
    return model


def load_tokenizer(source: str | Path, settings: Model) -> Any:
    """Return the tokenizer of a folder or hub id; of an adapter without one, that of its base. Raises ModelError."""
    adapter = adapter_at(source)
    if adapter is not None and not any(adapter.path.glob("tokenizer*")):
        source = adapter.base
    try:
        return AutoTokenizer.from_pretrained(
            str(source), revision=settings.revision or "main", trust_remote_code=settings.trust_remote_code
        )
    except Exception as error:
        raise ModelError(
            f"{source}: no usable tokenizer ({_first_line(error)}). A model folder needs tokenizer.json (or "
            "tokenizer_config.json and its vocabulary): save it with tokenizer.save_pretrained(FOLDER)."
        ) from error


def _advice(source: str, error: Exception) -> str:
    text = _first_line(error)
    if "trust_remote_code" in str(error):
        return (
            f"{source} wants to run code of its own. If you trust its author, set [model] trust_remote_code = true and "
            "pin [model] revision to a commit."
        )
    if not Path(source).is_dir():
        return f"{source} is no folder here and could not be loaded as a hub id: {text}"
    return f"{source} could not be loaded: {text}"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300] if lines else ''}"


def disable_dropout(model: PreTrainedModel) -> None:
    """Turn dropout off. It would make the ratio of the first update differ from 1 (detail 1 of PPO).

    Some architectures keep a rate as a module, others as a number in their attention (Llama) or in the config.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for key, value in vars(module).items():
            if key.endswith(DROPOUT_RATES) and isinstance(value, float):
                setattr(module, key, 0.0)
    for key, value in vars(model.config).items():
        if key.endswith(DROPOUT_RATES) and isinstance(value, float):
            setattr(model.config, key, 0.0)


def weights_hash(model: torch.nn.Module) -> str:
    """Return the first 16 hex digits of a SHA-256 over names, shapes and bytes of all saved parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
