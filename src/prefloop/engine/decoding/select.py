"""Says which decoder is the fastest for a model."""

from __future__ import annotations

from transformers import PreTrainedModel

from prefloop.engine.decoding.base import Decoder
from prefloop.engine.decoding.compiled import CompiledDecoder
from prefloop.engine.decoding.cuda_graph import GraphDecoder, is_recordable
from prefloop.engine.decoding.packed import PackedDecoder
from prefloop.models.compiled import is_compilable
from prefloop.models.packed import supports_packed


def decoder_for(model: PreTrainedModel, rows: int, max_tokens: int, longest: int) -> Decoder:
    """Return the fastest decoder that computes what the model computes of texts of up to `longest` tokens."""
    return decoder_class(model, longest)(model, rows, max_tokens)


def decoder_class(model: PreTrainedModel, longest: int = 0) -> type[Decoder]:
    """Return the class of the decoder that `decoder_for` makes."""
    if not type(model).__name__.endswith(("ForCausalLM", "LMHeadModel")) or not supports_packed(model, longest):
        return Decoder
    if is_compilable(model):
        return CompiledDecoder
    if model.device.type == "cuda" and is_recordable(model):
        return GraphDecoder
    return PackedDecoder
