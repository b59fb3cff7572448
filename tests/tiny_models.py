"""Makes real transformers models of a few thousand parameters, and folders of them, for tests that need no more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import PreTrainedTokenizerFast

from prefloop.batch import Rows, collate
from prefloop.models.scratch import train_tokenizer

TINY_MODEL = """
[project]
seed = 3
threads = 1
device = "cpu"
[model]
init = "scratch"
vocab_size = 300
hidden_size = 16
layers = 1
heads = 2
context = 64
"""  # This is the head of a prefloop.toml.
TEXTS = ["the cat sat on the mat and looked at the dog", "a dog ran to the park, and the cat did not"] * 4
_LLAMA: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
}
SIZES: dict[str, dict[str, Any]] = {
    "Llama": _LLAMA,
    "Qwen2": _LLAMA,
    "Mistral": _LLAMA,
    "Qwen3": {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 64,
    },
    "GPT2": {
        "n_embd": 16,
        "n_layer": 2,
        "n_head": 2,
        "n_positions": 64,
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),  # They are 0 as after loading.
    },
    "GPTNeoX": {  # A quarter of each head is rotated.
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
    },
    "Gemma2": {**_LLAMA, "head_dim": 8, "final_logit_softcapping": 5.0},
    "Gemma3": {
        **_LLAMA,
        "head_dim": 8,
        "layer_types": ["sliding_attention", "full_attention"],
        "sliding_window": 24,
    },
    "Cohere": {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
        "logit_scale": 0.25,
    },
}


def causal(
    kind: str = "Llama",
    vocab: int = 40,
    seed: int = 0,
    pad: int | None = 0,
    eos: Any = 1,
    sharp: float = 10.0,
    **more: Any,
) -> Any:
    """Return a randomly initialised model; `sharp` scales its weights, because otherwise every token is alike."""
    config_class = getattr(transformers, "Gemma3TextConfig" if kind == "Gemma3" else f"{kind}Config")
    model_class = getattr(transformers, "GPT2LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM")
    ids = {"pad_token_id": pad, "eos_token_id": eos, "bos_token_id": None}
    config = config_class(vocab_size=vocab, **{**SIZES[kind], **ids, **more})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = model_class(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(sharp)
    return model.eval()


def uneven(model: Any) -> Any:
    """Return the model with norms and biases that do something; those of a new model are all 1 and 0."""
    draw = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.4 * torch.randn(parameter.shape, generator=draw))
    return model


def tokenizer(chat: bool = True) -> PreTrainedTokenizerFast:
    """Return byte-level BPE of 300 tokens: <|pad|> is 0, <|end|> is 1."""
    made = train_tokenizer(TEXTS, 300)
    if not chat:
        made.chat_template = None
    return made


def folder(path: Path, kind: str = "Llama", chat: bool = True, pad: bool = True, **more: Any) -> Path:
    """Make a Hugging Face folder; with `pad` False the pad token is the end token, as in GPT-2."""
    made = tokenizer(chat)
    if not pad:
        made.pad_token = made.eos_token
    model = causal(kind, len(made), pad=made.pad_token_id, eos=more.pop("eos", made.eos_token_id), **more)
    model.save_pretrained(path)
    made.save_pretrained(path)
    return path


def random_rows(n: int = 6, vocab: int = 40, seed: int = 0, longest: int = 14) -> Rows:
    """Return ragged sequences of at least one prompt and one completion token."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, longest + 1, n)
    return collate([rng.integers(2, vocab, t).tolist() for t in lengths], [int(rng.integers(1, t)) for t in lengths])


def left_padded(rows: Rows, extra: int = 3) -> Rows:
    """Return the same sequences with their padding, and some more, on the left."""
    width = rows.ids.shape[1] + extra
    ids = torch.full((len(rows), width), 7)
    mask, action = torch.zeros(len(rows), width, dtype=torch.bool), torch.zeros(len(rows), width, dtype=torch.bool)
    for n, length in enumerate(rows.mask.sum(1).tolist()):
        ids[n, width - length :] = rows.ids[n, :length]
        mask[n, width - length :] = True
        action[n, width - length :] = rows.action[n, :length]
    return Rows(ids, mask, action)
