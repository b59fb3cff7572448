"""Counts what a model holds and computes, from its config alone: no weight is loaded, and none is made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from prefloop.config import Model
from prefloop.errors import ModelError
from prefloop.models.families import FAMILIES
from prefloop.models.load import DTYPES
from prefloop.models.meta_pass import meta_pass
from prefloop.models.packed import FUSE_UP_TO
from prefloop.models.scratch import new_model

FROM_TRANSFORMERS = 1.3  # Models that transformers computes keep about so much more, where it cannot be counted.
HOLES = 0.4  # So much of what they free of a token on a CPU is not used again (docs/scaling.md).


@dataclass(frozen=True)
class Linear:
    """Is a linear module of a layer: its name without a path, and its sizes."""

    name: str
    inputs: int
    outputs: int


@dataclass(frozen=True)
class Shapes:
    """Says how large the parts of a model are, in numbers.

    parameters: all of them;  body: without an output embedding of its own;  head: the output embedding
    layer: the weights of one layer, of which a token goes through those `active`;  linears: its linear modules
    kept: what a layer keeps of a token for the backward pass
    torch_keeps: what it keeps besides where plain torch computes it; the numbers that its norms read are `normed`
    freed: what a layer computes of a token and lets go, and a CPU's heap does not use again: queries, keys and values
        before rotary positions
    copied: copies of matrices that a training step makes in all layers, and keeps until its backward pass
    cached: keys and values of a token in all layers
    is_packed: whether prefloop's own code computes it, as far as the config tells
    scores: bytes that a layer keeps of each pair of tokens, where plain torch computes attention ("eager"); else 0
    """

    name: str
    dtype: torch.dtype
    parameters: int
    body: int
    head: int
    layers: int
    hidden: int
    inner: int
    vocabulary: int
    context: int
    layer: int
    active: int
    linears: tuple[Linear, ...]
    kept: int
    torch_keeps: int
    normed: int
    freed: int
    copied: int
    cached: int
    is_packed: bool
    scores: float

    @property
    def linear(self) -> int:
        """Return the numbers of the matrices of a layer's linear modules."""
        return sum(one.inputs * one.outputs for one in self.linears)

    def adapter(self, rank: int, targets: tuple[str, ...] = (), dora: bool = False) -> int:
        """Return the numbers of a LoRA adapter of the body (Hu 2021)."""
        chosen = self._chosen(targets)
        return self.layers * sum(rank * (one.inputs + one.outputs) + dora * one.outputs for one in chosen)

    def outputs(self, targets: tuple[str, ...] = ()) -> int:
        """Return the numbers that a layer's linear modules give of a token, where adapters change them."""
        return sum(one.outputs for one in self._chosen(targets))

    def _chosen(self, targets: tuple[str, ...]) -> list[Linear]:
        return [one for one in self.linears if not targets or one.name in targets]

    def operations(self, tokens: float, length: float, head: bool = True) -> float:
        """Return the multiplications and additions of a forward pass on so many tokens, in texts of a length."""
        matrices = self.layers * self.active + head * self.head
        return tokens * (2 * matrices + 2 * self.layers * self.hidden * length)


def config_of(settings: Model, root: Path) -> Any:
    """Return the config of the project's model: of a folder with a config.json, a hub id, or a model from scratch.

    Raises ModelError where there is none.
    """
    if settings.init == "scratch":
        folder = root / "model"
        if (folder / "config.json").is_file():
            return AutoConfig.from_pretrained(folder)
        with torch.device("meta"):
            return new_model(settings, settings.vocab_size, 0, 1, 0).config
    if not settings.path:
        raise ModelError('[model] path is not set. Give a Hugging Face folder or hub id, or init = "scratch".')
    folder = root / settings.path
    source = str(folder) if folder.is_dir() else settings.path
    try:
        return AutoConfig.from_pretrained(
            source, revision=settings.revision or "main", trust_remote_code=settings.trust_remote_code
        )
    except (OSError, ValueError, KeyError) as error:
        said = str(error).strip().splitlines()
        raise ModelError(f"{source}: no usable config.json ({said[0][:200] if said else error})") from error


def shapes_of(config: Any, settings: Model, name: str = "") -> Shapes:
    """Return the sizes of the causal model of a config. Raises ModelError where transformers knows none."""
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=settings.trust_remote_code)
    except (ValueError, TypeError, AttributeError, KeyError, ImportError) as error:
        raise ModelError(
            f"{name or 'the model'} is no causal language model that transformers knows: {error}"
        ) from error
    text = config.get_text_config()
    first = _first_layer(model)
    linears = tuple(_linears(first))
    names = {name.rpartition(".")[2] for name, _ in [*first.named_modules(), *first.named_parameters()]}
    heads = getattr(text, "num_attention_heads", None)
    if not heads:
        raise ModelError(f"{name or 'the model'} has no attention heads: plan counts transformers only")
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // heads
    query, kv = heads * head_dim, (getattr(text, "num_key_value_heads", None) or heads) * head_dim
    inner = getattr(text, "intermediate_size", None) or getattr(text, "n_inner", None) or 4 * text.hidden_size
    experts = getattr(text, "num_experts_per_tok", None) or 1
    gated = any(key in names for key in ("gate_proj", "gate_up_proj", "w1"))
    up = (2 if gated else 1) * inner * experts
    is_packed = type(model.base_model).__name__ in FAMILIES
    # Norms and the matrices behind them keep their inputs; attention its vectors and what it read.
    norms = sum(_norm_size(part) == text.hidden_size for part in first.modules())
    kept = (2 + norms) * text.hidden_size + (query + 2 * kv) + query + up + inner * experts
    normed = sum(_norm_size(part) for part in first.modules() if not isinstance(part, nn.LayerNorm))
    if "q_norm" in names:
        kept += query + 2 * kv
        normed += query + kv - 2 * head_dim
    torch_keeps = query  # Attention of padded rows copies its result.
    if gated and "silu" not in str(getattr(text, "hidden_act", None) or getattr(text, "hidden_activation", "silu")):
        kept += inner * experts  # Only silu is computed together with its product.
    elif gated:
        torch_keeps += inner * experts
    freed, scores = query + 2 * kv, 0.0
    if not is_packed:
        counted, each = meta_pass(model.to(DTYPES[settings.dtype])), DTYPES[settings.dtype].itemsize
        kept = int(FROM_TRANSFORMERS * kept)
        if counted is not None:
            a_layer = each * text.num_hidden_layers
            # An answer's keys and values are joined with copies of its prompt's, which are kept.
            scores = counted.pairs / text.num_hidden_layers
            kept, freed = int(counted.kept / a_layer) + 2 * kv, int(HOLES * counted.freed / a_layer)
    fused = [n for n in ((query + 2 * kv) * text.hidden_size, up * text.hidden_size) if n <= FUSE_UP_TO]
    head: Any = model.get_output_embeddings()
    embedding: Any = model.get_input_embeddings()
    parameters = sum(p.numel() for p in model.parameters())
    own_head = 0 if head is None or head.weight is embedding.weight else head.weight.numel()
    return Shapes(
        name=name,
        dtype=DTYPES[settings.dtype],
        parameters=parameters,
        body=parameters - own_head,
        head=text.vocab_size * text.hidden_size,
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        inner=up,
        vocabulary=text.vocab_size,
        context=getattr(text, "max_position_embeddings", None) or 2048,
        layer=(layer := sum(p.numel() for p in first.parameters())),
        active=min(
            layer,
            sum(one.inputs * one.outputs for one in linears)
            + (experts > 1) * (up + inner * experts) * text.hidden_size,
        ),
        linears=linears,
        kept=kept,
        torch_keeps=torch_keeps,
        normed=normed,
        freed=freed,
        copied=text.num_hidden_layers * sum(fused) if is_packed and gated else 0,
        cached=2 * kv * text.num_hidden_layers,
        is_packed=is_packed,
        scores=scores,
    )


def _first_layer(model: Any) -> nn.Module:
    """Return a model's first layer; its whole body where there is no stack of layers."""
    stacks = [part for part in model.base_model.modules() if isinstance(part, nn.ModuleList)]
    return max(stacks, key=len)[0] if stacks else model.base_model  # type: ignore[no-any-return]


def _norm_size(part: Any) -> int:
    """Return the size of a norm, and 0 for any other module."""
    is_norm = type(part).__name__.endswith("Norm") and isinstance(getattr(part, "weight", None), torch.Tensor)
    return part.weight.numel() if is_norm else 0


def _linears(layer: nn.Module) -> Iterator[Linear]:
    for path, part in layer.named_modules():
        if isinstance(part, nn.Linear | Conv1D):
            sizes = part.weight.shape if isinstance(part, Conv1D) else part.weight.shape[::-1]
            yield Linear(path.rpartition(".")[2], *map(int, sizes))
