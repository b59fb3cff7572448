"""Says what models are that prefloop does not train: quantised ones, and those of other kinds. Torch is not loaded."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# The types of numbers that weights may have in a safetensors file.
_PLAIN = ("F64", "F32", "F16", "BF16")


def quantised(folder: Path) -> str:
    """Return in words how a folder's weights are quantised; "" where they are plain numbers."""
    said = _read(folder / "config.json").get("quantization_config")
    if isinstance(said, Mapping):
        return f"quantised ({said.get('quant_method') or 'quantization_config in its config.json'})"
    for path in sorted(folder.glob("*.safetensors")):
        for name, tensor in _header(path).items():
            kind = tensor.get("dtype", "F32") if isinstance(tensor, Mapping) else "F32"
            if name.endswith("weight") and kind not in _PLAIN or kind.startswith(("F8", "F6", "F4")):
                return f"of {kind} numbers ({name} in {path.name})"
    return ""


def refusal_of_quantised(source: object, how: str) -> str:
    return (
        f"{source}: its weights are {how}, which prefloop does not train: a step of the optimiser is smaller than the "
        "gaps between such numbers. Take the model that it was made from, or save it once in bfloat16 with "
        "transformers (dequantize, then save_pretrained)."
    )


def other_kind(config: Mapping[str, Any], wanted: str) -> str:
    """Return why a model of this config cannot be loaded as what is wanted, such as "AutoModelForCausalLM"."""
    kind = config.get("model_type", "unknown")
    senses = [name.removesuffix("_config") for name in ("vision_config", "audio_config") if name in config]
    if senses:
        return (
            f"it is a model of text and {' and '.join(senses)} ({kind}), and transformers has no {wanted} for it. "
            "prefloop trains language models of text alone: save its language model in a folder of its own "
            "(model.language_model.save_pretrained), or take a model without images"
        )
    if config.get("is_encoder_decoder"):
        return f"it is an encoder with a decoder ({kind}). prefloop trains decoders alone, such as Llama, Qwen or GPT-2"
    if "SequenceClassification" in wanted:
        return (
            f"transformers has no classifier of this kind ({kind}), so it can be no reward model. Start reward models "
            "from another one: [reward] start"
        )
    return f"transformers knows no causal language model of this kind ({kind})"


def config_in(source: str) -> dict[str, Any]:
    """Return the config.json of a folder; nothing where it cannot be read."""
    return _read(Path(source) / "config.json")


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # transformers will say what is wrong with it.
    return found if isinstance(found, dict) else {}


def _header(path: Path) -> dict[str, Any]:
    """Return what a safetensors file says of its tensors; nothing where it is damaged."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            found = json.loads(file.read(min(length, path.stat().st_size)))
    except (OSError, ValueError, struct.error):
        return {}
    return found if isinstance(found, dict) else {}
