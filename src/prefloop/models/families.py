"""Describes the families of models that prefloop computes itself, each in one common form.

Such a model has an embedding, a stack of layers and a final norm. A layer consists of a norm, attention, a second norm,
and an MLP of two matrices (`up_proj`, `down_proj`) or three (with `gate_proj`). Some families also normalise what
attention and the MLP return. The supported families are Llama, Mistral, Qwen2, Qwen3; Gemma 3; GPT-NeoX (Pythia); and
GPT-2. Sliding windows are not computed: a text that fits into the window is read the same without one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from prefloop.kernels.attention import Rope
from prefloop.models.matrix import Matrix, matrix_of

# The angles of these kinds of rotary positions do not depend on the text's length.
ROPE_TYPES = frozenset({"default", "linear", "llama3", "yarn"})
# Each activation class of torch and transformers computes the function named here.
ACTIVATIONS = {
    "SiLU": "silu",
    "SiLUActivation": "silu",
    "GELUActivation": "gelu",
    "NewGELUActivation": "gelu_tanh",
    "GELUTanh": "gelu_tanh",
    "FastGELUActivation": "gelu_tanh",
}


@dataclass(frozen=True)
class Norm:
    """Holds the parameters of a norm: RMSNorm (Zhang 2019), or LayerNorm (Ba 2016) where it is `centred`."""

    weight: Tensor
    eps: float
    bias: Tensor | None = None
    centred: bool = False


@dataclass(frozen=True)
class LayerWeights:
    """Holds the parameters of one layer, in the dtype of the embedding.

    Gradients flow through them to the model's own.
    """

    q_proj: Matrix
    k_proj: Matrix
    v_proj: Matrix
    o_proj: Matrix
    gate_up_proj: tuple[Matrix, ...]  # gate_proj and up_proj, or up_proj alone
    down_proj: Matrix
    act_fn: Callable[[Tensor], Tensor]
    attention_norm: Norm  # applied before attention
    mlp_norm: Norm  # applied before the MLP
    head_dim: int
    scaling: float  # the factor of the products of queries and keys
    dropout: float = 0.0  # the factor of the products of queries and keys
    q_norm: Norm | None = None
    k_norm: Norm | None = None
    attention_out_norm: Norm | None = None  # applied to what attention adds to the residual
    mlp_out_norm: Norm | None = None  # applied to what the MLP adds to the residual
    parallel_residual: bool = False  # whether the MLP reads the layer's input, not the sum of it and attention
    rope_index: int = 0  # whether the MLP reads the layer's input, not the sum of it and attention

    def merged(self) -> LayerWeights:
        """Return the layer with every adapter added to its matrix, for code that knows none."""
        matrices = {n: getattr(self, n).merged() for n in ("q_proj", "k_proj", "v_proj", "o_proj", "down_proj")}
        return replace(self, gate_up_proj=tuple(matrix.merged() for matrix in self.gate_up_proj), **matrices)

    @property
    def activation(self) -> str:
        """Return the name of what `act_fn` computes, or an empty string if it is not one of `ACTIVATIONS`."""
        return ACTIVATIONS.get(type(self.act_fn).__name__, "")


class Family:
    """Describes a model of the Llama, Mistral, Qwen2 and Qwen3 families; subclasses describe the others."""

    embedding_scale: float = 1.0
    position_embeddings: Tensor | None = None  # learned positions [P,H], added to the token embeddings

    def __init__(self, model: PreTrainedModel):
        self.body: Any = model.base_model
        self.embedding: Tensor = self.body.get_input_embeddings().weight
        self.dtype = self.embedding.dtype

    @property
    def layers(self) -> Any:
        """Return the model's own layer modules, in order."""
        return self.body.layers

    @property
    def window(self) -> int | None:
        """Return the number of tokens that every layer sees at once; None if there is no sliding window."""
        kinds = getattr(self.body.config, "layer_types", None)
        if kinds is not None and "sliding_attention" not in kinds:
            return None
        window: int | None = getattr(self.body.config, "sliding_window", None)
        return window

    @property
    def norm(self) -> Norm:
        """Return the norm after the last layer."""
        return self._norm(self.body.norm)

    @property
    def head_dim(self) -> int:
        """Return the size of one attention head."""
        config = self.body.config
        head_dim: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return head_dim

    def layer_weights(self, layer: Any) -> LayerWeights:
        """Return the parameters of one of `layers`.

        Raises TypeError where a part is not a matrix (quantisation), or the layer has another form.
        """
        attention, mlp = layer.self_attn, layer.mlp
        names = ("q_norm", "k_norm")
        q_norm, k_norm = (self._norm(getattr(attention, one)) if hasattr(attention, one) else None for one in names)
        if q_norm and self._rotary_dim() != self.head_dim:
            raise TypeError("norms of heads with partial rotary positions are not supported")
        return LayerWeights(
            self._half_split(self._matrix(attention.q_proj)),
            self._half_split(self._matrix(attention.k_proj)),
            self._matrix(attention.v_proj),
            self._matrix(attention.o_proj),
            (self._matrix(mlp.gate_proj), self._matrix(mlp.up_proj)),
            self._matrix(mlp.down_proj),
            mlp.act_fn,
            self._norm(layer.input_layernorm),
            self._norm(layer.post_attention_layernorm),
            self.head_dim,
            attention.scaling,
            attention.attention_dropout if layer.training else 0.0,
            q_norm,
            k_norm,
        )

    def embed(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Return the input of the first layer [M,H] for token ids [M] at positions [M]."""
        x = F.embedding(ids, self.embedding)
        x = x if self.embedding_scale == 1 else x * self.embedding_scale
        return x if self.position_embeddings is None else x + F.embedding(positions, self.position_embeddings)

    def rope(self, positions: Tensor) -> list[Rope]:
        """Return cosines and sines [M,1,head_dim/2] for tokens at positions [M]; one pair for each kind of layer."""
        return [self._padded_rope(*self.body.rotary_emb(self.embedding, positions[:, None]))]

    def _padded_rope(self, cos: Tensor, sin: Tensor) -> Rope:
        """Return cosines and sines for a whole head: the numbers that are not rotated get the angle 0."""
        rotated, rest = cos.shape[-1] // 2, (self.head_dim - cos.shape[-1]) // 2
        cos, sin = cos[..., :rotated].to(self.dtype), sin[..., :rotated].to(self.dtype)
        return F.pad(cos, (0, rest), value=1.0), F.pad(sin, (0, rest))

    def _rotary_dim(self) -> int:
        """Return how many numbers of a head are rotated. They are the first ones."""
        return 2 * len(self.body.rotary_emb.inv_freq)

    def _half_split(self, matrix: Matrix) -> Matrix:
        """Return the rows of a query or key matrix in the order that `rotary` expects.

        `rotary` pairs each number of a head's first half with one of its second half. Where only some numbers are
        rotated, those come first in each half. The order does not change products of queries and keys.
        """
        rotated, head_dim = self._rotary_dim(), self.head_dim
        if rotated == head_dim:
            return matrix
        first, rest = torch.arange(rotated).chunk(2), torch.arange(rotated, head_dim).chunk(2)
        order = torch.cat([first[0], rest[0], first[1], rest[1]]).to(self.embedding.device)
        return matrix.rows(lambda x: x.unflatten(0, (-1, head_dim)).index_select(1, order).flatten(0, 1))

    def _matrix(self, linear: Any) -> Matrix:
        return matrix_of(linear, self.dtype)

    def _norm(self, norm: Any) -> Norm:
        if type(norm) is nn.LayerNorm:
            bias = None if norm.bias is None else norm.bias.to(self.dtype)
            return Norm(norm.weight.to(self.dtype), norm.eps, bias, centred=True)
        return Norm(norm.weight.to(self.dtype), norm.variance_epsilon)


class Gemma3Family(Family):
    """Describes Gemma 3 (2025).

    It also normalises what attention and the MLP return, and stores norm weights minus 1. Its two kinds of layers
    (local and global) use different rotary positions.
    """

    def __init__(self, model: PreTrainedModel):
        super().__init__(model)
        self.embedding_scale = float(torch.tensor(self.body.config.hidden_size**0.5, dtype=self.dtype))
        self.kinds: list[str] = self.body.rotary_emb.layer_types

    def rope(self, positions: Tensor) -> list[Rope]:
        rotary_emb = self.body.rotary_emb
        return [self._padded_rope(*rotary_emb(self.embedding, positions[:, None], kind)) for kind in self.kinds]

    def layer_weights(self, layer: Any) -> LayerWeights:
        return replace(
            super().layer_weights(layer),
            mlp_norm=self._norm(layer.pre_feedforward_layernorm),
            attention_out_norm=self._norm(layer.post_attention_layernorm),
            mlp_out_norm=self._norm(layer.post_feedforward_layernorm),
            rope_index=self.kinds.index(layer.self_attn.layer_type),
        )

    def _rotary_dim(self) -> int:
        return self.head_dim

    def _norm(self, norm: Any) -> Norm:
        return Norm(1.0 + norm.weight.float() if norm.weight.dtype.itemsize < 4 else 1.0 + norm.weight, norm.eps)


class GPTNeoXFamily(Family):
    """Describes GPT-NeoX (Black 2022), such as Pythia.

    One matrix holds the query, key and value of each head in turn.
    """

    @property
    def norm(self) -> Norm:
        return self._norm(self.body.final_layer_norm)

    def layer_weights(self, layer: Any) -> LayerWeights:
        attention, mlp, head_dim = layer.attention, layer.mlp, self.head_dim
        each = self._matrix(attention.query_key_value)
        q, k, v = (
            each.rows(lambda x, n=n: x.unflatten(0, (-1, 3, head_dim))[:, n].flatten(0, 1))  # type: ignore[misc]
            for n in range(3)
        )
        return LayerWeights(
            self._half_split(q),
            self._half_split(k),
            v,
            self._matrix(attention.dense),
            (self._matrix(mlp.dense_h_to_4h),),
            self._matrix(mlp.dense_4h_to_h),
            mlp.act,
            self._norm(layer.input_layernorm),
            self._norm(layer.post_attention_layernorm),
            head_dim,
            attention.scaling,
            attention.attention_dropout if layer.training else 0.0,
            parallel_residual=layer.use_parallel_residual,
        )


class GPT2Family(Family):
    """Describes GPT-2 (Radford 2019), which has learned position embeddings and no rotary positions."""

    def __init__(self, model: PreTrainedModel):
        super().__init__(model)
        self.position_embeddings = self.body.wpe.weight.to(self.dtype)

    @property
    def layers(self) -> Any:
        return self.body.h

    @property
    def norm(self) -> Norm:
        return self._norm(self.body.ln_f)

    def rope(self, positions: Tensor) -> list[Rope]:
        """Return cosines of 1 and sines of 0, so that `rotary` changes nothing."""
        none = torch.zeros(len(positions), 1, self.head_dim // 2, dtype=self.dtype, device=positions.device)
        return [(torch.ones_like(none), none)]

    def layer_weights(self, layer: Any) -> LayerWeights:
        attention, mlp = layer.attn, layer.mlp
        each = self._matrix(attention.c_attn)
        q, k, v = (each.rows(lambda x, n=n: x.chunk(3)[n]) for n in range(3))  # type: ignore[misc]
        return LayerWeights(
            q,
            k,
            v,
            self._matrix(attention.c_proj),
            (self._matrix(mlp.c_fc),),
            self._matrix(mlp.c_proj),
            mlp.act,
            self._norm(layer.ln_1),
            self._norm(layer.ln_2),
            self.head_dim,
            attention.scaling,
        )


FAMILIES: dict[str, type[Family]] = {
    **dict.fromkeys(("LlamaModel", "MistralModel", "Qwen2Model", "Qwen3Model"), Family),
    "Gemma3TextModel": Gemma3Family,
    "GPTNeoXModel": GPTNeoXFamily,
    "GPT2Model": GPT2Family,
}


def family_of(model: PreTrainedModel) -> Family:
    """Return the description of a model. Raises KeyError where its class is not in `FAMILIES`."""
    return FAMILIES[type(model.base_model).__name__](model)


def is_known(model: PreTrainedModel) -> bool:
    """Return whether the model's class and settings are ones that `Family` describes."""
    body: Any = model.base_model
    if type(body).__name__ not in FAMILIES:
        return False
    rope_type = getattr(getattr(body, "rotary_emb", None), "rope_type", "default")
    if not ROPE_TYPES.issuperset(rope_type.values() if isinstance(rope_type, dict) else [rope_type]):
        return False
    # Llama's dropout of attention is a number, and supported; a dropout module is not.
    if any(isinstance(part, nn.Dropout) and part.p for part in body.modules()):
        return False
    kinds = getattr(body.config, "layer_types", None) or ["full_attention"]
    plain = not any(
        getattr(body.config, name, None) for name in ("attn_logit_softcapping", "use_bidirectional_attention")
    )
    return plain and {"full_attention", "sliding_attention"}.issuperset(kinds)
