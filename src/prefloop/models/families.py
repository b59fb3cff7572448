"""What the parts of a model are called: every family that `lean`, `compiled` and the fast decoders read, in one form.

A body is an embedding, layers and a norm. A layer is a norm, attention, a norm, and two matrices with something in
between, or three where one of them gates; what they make may be normed too before it is added. Of this form are Llama,
Mistral, Qwen2, Qwen3; Gemma 3; GPT-NeoX (Pythia); GPT-2. Windows are not: texts that fit into one don't notice it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from prefloop.kernels.attention import Turn

ROTARY = frozenset({"default", "linear", "llama3", "yarn"})  # those whose tables don't depend on the text's length
ACTS = {
    "SiLU": "silu",
    "SiLUActivation": "silu",
    "GELUActivation": "gelu",
    "NewGELUActivation": "gelu_tanh",
    "GELUTanh": "gelu_tanh",
    "FastGELUActivation": "gelu_tanh",
}  # what they compute, by class

Matrix = tuple[Tensor, Tensor | None]  # weight [out,in], bias [out]


@dataclass(frozen=True)
class Norm:
    """By root mean square (Zhang 2019); or `centred`, less the mean first (Ba 2016). In the dtype of `weight`."""

    weight: Tensor
    epsilon: float
    bias: Tensor | None = None
    centred: bool = False


@dataclass(frozen=True)
class Parts:
    """Of one layer, in the dtype of the embedding. They stay part of the graph."""

    q: Matrix
    k: Matrix
    v: Matrix
    out: Matrix
    wide: tuple[Matrix, ...]  # gate and up, or up alone
    down: Matrix
    act: Callable[[Tensor], Tensor]
    before: Norm
    after: Norm
    size: int  # of a head
    scaling: float  # of the products of queries and keys
    dropout: float = 0.0  # of attention
    q_norm: Norm | None = None
    k_norm: Norm | None = None
    out_norm: Norm | None = None  # of what is added
    down_norm: Norm | None = None
    parallel: bool = False  # the wide matrices read what came into the layer, not what attention made of it
    turn: int = 0  # which of the tables of `Layout.turning`

    @property
    def does(self) -> str:
        """What `act` computes; empty where it is none of `ACTS`."""
        return ACTS.get(type(self.act).__name__, "")


class Layout:
    """Llama, Mistral, Qwen2, Qwen3."""

    scale: float = 1.0  # of the embedding
    places: Tensor | None = None  # learned positions [*,H], added to it

    def __init__(self, model: PreTrainedModel):
        self.body: Any = model.base_model
        self.embedding: Tensor = self.body.get_input_embeddings().weight
        self.dtype = self.embedding.dtype

    @property
    def blocks(self) -> Any:
        return self.body.layers

    @property
    def window(self) -> int | None:
        """Tokens of the longest texts that every layer reads as a whole; none: of any length."""
        kinds = getattr(self.body.config, "layer_types", None)
        if kinds is not None and "sliding_attention" not in kinds:
            return None
        window: int | None = getattr(self.body.config, "sliding_window", None)
        return window

    @property
    def norm(self) -> Norm:
        return self._norm(self.body.norm)

    @property
    def size(self) -> int:
        """Of a head."""
        config = self.body.config
        size: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return size

    def parts(self, block: Any) -> Parts:
        attention, mlp = block.self_attn, block.mlp
        names = ("q_norm", "k_norm")
        q_norm, k_norm = (self._norm(getattr(attention, one)) if hasattr(attention, one) else None for one in names)
        if q_norm and self._turned() != self.size:
            raise TypeError("norms of heads that are turned in part")
        return Parts(
            self._ordered(self._matrix(attention.q_proj)),
            self._ordered(self._matrix(attention.k_proj)),
            self._matrix(attention.v_proj),
            self._matrix(attention.o_proj),
            (self._matrix(mlp.gate_proj), self._matrix(mlp.up_proj)),
            self._matrix(mlp.down_proj),
            mlp.act_fn,
            self._norm(block.input_layernorm),
            self._norm(block.post_attention_layernorm),
            self.size,
            attention.scaling,
            attention.attention_dropout if block.training else 0.0,
            q_norm,
            k_norm,
        )

    def embedded(self, ids: Tensor, positions: Tensor) -> Tensor:
        """What the first layer reads of tokens [M] at positions [M]: [M,H]."""
        x = F.embedding(ids, self.embedding)
        x = x if self.scale == 1 else x * self.scale
        return x if self.places is None else x + F.embedding(positions, self.places)

    def turning(self, positions: Tensor) -> list[Turn]:
        """Tables of cosines and sines for `rotary`, of tokens at `positions` [M]: [M,1,size/2] each."""
        return [self._table(*self.body.rotary_emb(self.embedding, positions[:, None]))]

    def _table(self, cos: Tensor, sin: Tensor) -> Turn:
        turned, rest = cos.shape[-1] // 2, (self.size - cos.shape[-1]) // 2
        cos, sin = cos[..., :turned].to(self.dtype), sin[..., :turned].to(self.dtype)
        return F.pad(cos, (0, rest), value=1.0), F.pad(sin, (0, rest))

    def _turned(self) -> int:
        """How many of a head's numbers rotary positions turn: the first ones."""
        return 2 * len(self.body.rotary_emb.inv_freq)

    def _ordered(self, matrix: Matrix) -> Matrix:
        """Rows in the order in which `rotary` pairs them: a number of a head's first half with that of its second.

        Where not all numbers are turned, those that are come first in each half; the angle of the others is 0. Products
        of queries and keys don't notice the order.
        """
        turned, size = self._turned(), self.size
        if turned == size:
            return matrix
        first, rest = torch.arange(turned).chunk(2), torch.arange(turned, size).chunk(2)
        order = torch.cat([first[0], rest[0], first[1], rest[1]]).to(self.embedding.device)
        weight, bias = matrix
        weight = weight.unflatten(0, (-1, size)).index_select(1, order).flatten(0, 1)
        return weight, None if bias is None else bias.unflatten(0, (-1, size)).index_select(1, order).flatten()

    def _matrix(self, linear: Any) -> Matrix:
        if type(linear) is Conv1D:  # GPT-2's: a transposed matrix
            weight = linear.weight.t()
        elif type(linear) is nn.Linear:
            weight = linear.weight
        else:  # adapters and quantised layers compute something else
            raise TypeError("not a plain matrix")
        return weight.to(self.dtype), None if linear.bias is None else linear.bias.to(self.dtype)

    def _norm(self, norm: Any) -> Norm:
        if type(norm) is nn.LayerNorm:
            bias = None if norm.bias is None else norm.bias.to(self.dtype)
            return Norm(norm.weight.to(self.dtype), norm.eps, bias, centred=True)
        return Norm(norm.weight.to(self.dtype), norm.variance_epsilon)


class Gemma(Layout):
    """Gemma 3 (2025): norms of what is added too, their weights less 1; a table of positions for each kind of layer."""

    def __init__(self, model: PreTrainedModel):
        super().__init__(model)
        self.scale = float(torch.tensor(self.body.config.hidden_size**0.5, dtype=self.dtype))
        self.kinds: list[str] = self.body.rotary_emb.layer_types

    def turning(self, positions: Tensor) -> list[Turn]:
        turn = self.body.rotary_emb
        return [self._table(*turn(self.embedding, positions[:, None], kind)) for kind in self.kinds]

    def parts(self, block: Any) -> Parts:
        return replace(
            super().parts(block),
            after=self._norm(block.pre_feedforward_layernorm),
            out_norm=self._norm(block.post_attention_layernorm),
            down_norm=self._norm(block.post_feedforward_layernorm),
            turn=self.kinds.index(block.self_attn.layer_type),
        )

    def _turned(self) -> int:
        return self.size

    def _norm(self, norm: Any) -> Norm:
        return Norm(1.0 + norm.weight.float() if norm.weight.dtype.itemsize < 4 else 1.0 + norm.weight, norm.eps)


class NeoX(Layout):
    """GPT-NeoX (Black 2022), as Pythia is: queries, keys and values of a head stand together in one matrix."""

    @property
    def norm(self) -> Norm:
        return self._norm(self.body.final_layer_norm)

    def parts(self, block: Any) -> Parts:
        attention, mlp, size = block.attention, block.mlp, self.size
        weight, bias = self._matrix(attention.query_key_value)
        weights = [part.flatten(0, 1) for part in weight.unflatten(0, (-1, 3, size)).unbind(1)]
        biases = [None] * 3 if bias is None else [part.flatten() for part in bias.unflatten(0, (-1, 3, size)).unbind(1)]
        q, k, v = zip(weights, biases, strict=True)
        return Parts(
            self._ordered(q),
            self._ordered(k),
            v,
            self._matrix(attention.dense),
            (self._matrix(mlp.dense_h_to_4h),),
            self._matrix(mlp.dense_4h_to_h),
            mlp.act,
            self._norm(block.input_layernorm),
            self._norm(block.post_attention_layernorm),
            size,
            attention.scaling,
            attention.attention_dropout if block.training else 0.0,
            parallel=block.use_parallel_residual,
        )


class Gpt2(Layout):
    """GPT-2 (Radford 2019): learned positions, nothing is turned."""

    def __init__(self, model: PreTrainedModel):
        super().__init__(model)
        self.places = self.body.wpe.weight.to(self.dtype)

    @property
    def blocks(self) -> Any:
        return self.body.h

    @property
    def norm(self) -> Norm:
        return self._norm(self.body.ln_f)

    def turning(self, positions: Tensor) -> list[Turn]:
        none = torch.zeros(len(positions), 1, self.size // 2, dtype=self.dtype, device=positions.device)
        return [(torch.ones_like(none), none)]

    def parts(self, block: Any) -> Parts:
        attention, mlp = block.attn, block.mlp
        weight, bias = self._matrix(attention.c_attn)
        biases = [None] * 3 if bias is None else bias.chunk(3)
        q, k, v = zip(weight.chunk(3), biases, strict=True)
        return Parts(
            q,
            k,
            v,
            self._matrix(attention.c_proj),
            (self._matrix(mlp.c_fc),),
            self._matrix(mlp.c_proj),
            mlp.act,
            self._norm(block.ln_1),
            self._norm(block.ln_2),
            self.size,
            attention.scaling,
        )


FAMILIES: dict[str, type[Layout]] = {
    **dict.fromkeys(("LlamaModel", "MistralModel", "Qwen2Model", "Qwen3Model"), Layout),
    "Gemma3TextModel": Gemma,
    "GPTNeoXModel": NeoX,
    "GPT2Model": Gpt2,
}


def layout(model: PreTrainedModel) -> Layout:
    """Raises KeyError for families of other forms."""
    return FAMILIES[type(model.base_model).__name__](model)


def is_known(model: PreTrainedModel) -> bool:
    """Whether it is of this form, by its kind and settings."""
    body: Any = model.base_model
    if type(body).__name__ not in FAMILIES:
        return False
    turning = getattr(getattr(body, "rotary_emb", None), "rope_type", "default")
    if not ROTARY.issuperset(turning.values() if isinstance(turning, dict) else [turning]):
        return False
    if any(isinstance(part, nn.Dropout) and part.p for part in body.modules()):  # Llama's, of attention, is a number
        return False
    kinds = getattr(body.config, "layer_types", None) or ["full_attention"]
    plain = not any(
        getattr(body.config, name, None) for name in ("attn_logit_softcapping", "use_bidirectional_attention")
    )
    return plain and {"full_attention", "sliding_attention"}.issuperset(kinds)
