"""Computes the models that `families` describes from their own weights: what transformers computes, with less work.

Matrices that share an input are multiplied as one matrix. Padding is not computed: the real tokens of a batch stand one
after the other ("packed"), and only attention, which is small beside the matrices, knows which row a token belongs to.
`supports_packed` says which models this is for. All other models run through transformers, which is also what the tests
compare with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from prefloop.kernels.attention import Heads, Rope, attention, can_pack, plan
from prefloop.kernels.linear import rms_norm, rotary, silu_gate
from prefloop.models.families import LayerWeights, Norm, family_of, is_known
from prefloop.models.matrix import Matrix, concatenate, multiply

# Copies of matrices that stand together have at most so many elements; gate_proj and up_proj of a 0.5B model just fit.
FUSE_UP_TO = 9 << 20
ACTIVATION_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
}


class PackedLayer:
    """Computes one layer on packed tokens [M,H]. Matrices that share an input are fused."""

    def __init__(self, weights: LayerWeights):
        self.weights = weights
        self.heads = Heads(*(len(matrix.weight) // weights.head_dim for matrix in (weights.q_proj, weights.k_proj)))
        self.qkv_proj = fuse([weights.q_proj, weights.k_proj, weights.v_proj])
        self.gate_up_proj = fuse(weights.gate_up_proj)
        self.act_fn = ACTIVATION_FUNCTIONS.get(weights.activation, weights.act_fn)

    def qkv(self, x: Tensor) -> Tensor:
        """Return queries, keys and values of tokens x [M,H], before rotary positions: [M,query+2*kv,head_dim]."""
        weights, heads = self.weights, self.heads
        found = project(apply_norm(x, weights.attention_norm), self.qkv_proj).view(len(x), -1, weights.head_dim)
        if weights.q_norm is None or weights.k_norm is None:
            return found
        q, k, v = found.split((heads.query, heads.kv, heads.kv), dim=1)
        return torch.cat([apply_norm(q, weights.q_norm), apply_norm(k, weights.k_norm), v], dim=1)

    def rotated_qkv(self, x: Tensor, rope: Sequence[Rope]) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries [M,query,head_dim], keys and values [M,kv,head_dim] of tokens x [M,H], after rotary positions.

        rope: what `Family.rope` returns for the tokens' positions
        """
        heads = self.heads
        rotated = rotary(self.qkv(x), *rope[self.weights.rope_index], heads.query + heads.kv)
        q, k, v = rotated.split((heads.query, heads.kv, heads.kv), dim=1)
        return q, k, v

    def after_attention(self, x: Tensor, attended: Tensor) -> Tensor:
        """Return the layer's result [M,H] for its input x [M,H].

        attended: the weighted values of its heads [M,query*head_dim]
        """
        weights = self.weights
        # It is computed before x changes: `add_projected` may write over x where no gradient is wanted.
        up = self._gate_up(x) if weights.parallel_residual else None
        x = add_projected(x, attended, weights.o_proj, weights.attention_out_norm)
        if up is None:
            up = self._gate_up(x)
        return add_projected(x, self._activated(up), weights.down_proj, weights.mlp_out_norm)

    def _gate_up(self, x: Tensor) -> Tensor:
        return project(apply_norm(x, self.weights.mlp_norm), self.gate_up_proj)

    def _activated(self, gate_up: Tensor) -> Tensor:
        if len(self.weights.gate_up_proj) == 1:
            return self.act_fn(gate_up)
        if self.weights.activation == "silu":
            return silu_gate(gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        return self.act_fn(gate) * up


def fuse(matrices: Sequence[Matrix]) -> list[Matrix]:
    """Return the matrices as one, where they are small enough for a copy; otherwise, or in 4 bits, as they are."""
    there = all(matrix.make is None for matrix in matrices)
    few = there and sum(matrix.weight.numel() for matrix in matrices) <= FUSE_UP_TO
    return [concatenate(matrices)] if few and len(matrices) > 1 else list(matrices)


def project(x: Tensor, matrices: Sequence[Matrix]) -> Tensor:
    """Return x [M,in] multiplied by each of the matrices; the results stand side by side [M,out]."""
    if len(matrices) == 1:
        return multiply(x, matrices[0])
    plain = all(one.bias is None and one.adapter is None and one.make is None for one in matrices)
    if plain and x.is_cuda and not torch.is_grad_enabled():
        sizes = [len(one.weight) for one in matrices]
        out = x.new_empty(len(x), sum(sizes))
        for one, part in zip(matrices, out.split(sizes, dim=1), strict=True):
            torch.mm(x, one.weight.t(), out=part)
        return out
    return torch.cat([multiply(x, one) for one in matrices], dim=-1)


def add_projected(residual: Tensor, x: Tensor, matrix: Matrix, norm: Norm | None) -> Tensor:
    """Return the residual [M,H] plus x [M,in] multiplied by the matrix, normalised first if a norm is given."""
    return multiply(x, matrix, residual) if norm is None else residual + apply_norm(multiply(x, matrix), norm)


def apply_norm(x: Tensor, norm: Norm) -> Tensor:
    """Return x [*,H] normalised in the dtype of the norm's weight, in the dtype of x."""
    if norm.weight.dtype != x.dtype:
        return apply_norm(x.to(norm.weight.dtype), norm).to(x.dtype)
    if norm.centred:
        return F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps)
    return rms_norm(x, norm.weight, norm.eps)


# -- the forward pass of a batch ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Segment:
    """Holds right-padded sequences [N,T]: token ids, which of them are real, and their positions in the text."""

    ids: Tensor
    mask: Tensor
    positions: Tensor


Attend = Callable[[PackedLayer, Tensor], Tensor]  # attention of a layer on tokens [M,H]: [M,query*head_dim]
OnKeyValues = Callable[[int, Tensor, Tensor], object]


def forward_packed(
    model: PreTrainedModel,
    wanted: Tensor,
    prompts: Segment,
    answers: Segment | None = None,
    on_key_values: OnKeyValues | None = None,
) -> Tensor:
    """Return the last hidden states [n,H] of the tokens `wanted`.

    wanted: indices [n] among the real tokens of all prompts, followed by the real tokens of all answers
    answers: rows that continue the prompts. Each prompt has equally many answers, which stand together
    on_key_values: called for each layer with its number, its keys and its values [M,kv,head_dim]
    """
    family = family_of(model)
    segments = [prompts] if answers is None else [prompts, answers]
    ids, positions = (torch.cat([getattr(s, name)[s.mask] for s in segments]) for name in ("ids", "positions"))
    rope = family.rope(positions)
    x = family.embed(ids, positions)
    attend: Attend | None = None  # It is the same for all layers.

    def compute(module: Any, is_last: bool, x: Tensor) -> Tensor:
        nonlocal attend
        layer = PackedLayer(family.layer_weights(module))
        if attend is None and can_pack(x, layer.weights.head_dim, layer.weights.dropout) and on_key_values is None:
            attend = _packed_attention(segments, rope, layer.heads)
        elif attend is None:
            attend = _padded_attention(segments, rope, x.dtype, on_key_values)
        if not is_last:
            return layer.after_attention(x, attend(layer, x))
        # The last layer computes the wanted tokens only. They are selected by `F.embedding`, because a token may be
        # wanted several times (the end of a prompt is), and the gradient of plain indexing is then added up in a random
        # order.
        residual, attended = F.embedding(wanted, x), F.embedding(wanted, attend(layer, x))
        return layer.after_attention(residual, attended)

    last = len(family.layers) - 1
    for number, module in enumerate(family.layers):
        x = _within(module, partial(compute, module, number == last), x)
    return apply_norm(x, family.norm)


def _within(module: Any, compute: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return compute(x) for a layer, computed within its module where that asks for it.

    If a module has a method `packed_forward`, it is given `compute` and x, and calls it between its own hooks: those of
    FSDP gather the layer's weights. A module with gradient checkpointing keeps only x for the backward pass, and
    computes the layer again there (Chen 2016).
    """
    if torch.is_grad_enabled() and module.training and getattr(module, "gradient_checkpointing", False):
        compute = partial(checkpoint, compute, use_reentrant=False)
    hooked = getattr(module, "packed_forward", None)
    return compute(x) if hooked is None else hooked(compute, x)


def _packed_attention(segments: Sequence[Segment], rope: Sequence[Rope], heads: Heads) -> Attend:
    """Return a function that computes attention by prefloop's own kernels, on packed tokens."""
    made = plan(heads, *(segment.mask.sum(-1) for segment in segments))
    return lambda layer, x: attention(
        layer.qkv(x), rope[layer.weights.rope_index], made, layer.weights.scaling, layer.weights.dropout
    )


def _padded_attention(
    segments: Sequence[Segment], rope: Sequence[Rope], dtype: torch.dtype, on_key_values: OnKeyValues | None
) -> Attend:
    """Return a function that computes attention by torch's kernels, on padded rows."""
    number = count()
    prompts, answers = segments[0], segments[-1]
    places = [segment.mask.flatten().nonzero().squeeze(1) for segment in segments]
    mask = _answer_mask(prompts, answers, dtype) if len(segments) > 1 else None

    def attend(layer: PackedLayer, x: Tensor) -> Tensor:
        qkv = layer.rotated_qkv(x, rope)
        if on_key_values is not None:
            on_key_values(next(number), *qkv[1:])
        parts = [part.tensor_split([len(places[0])]) for part in qkv]
        q, k, v = (pad_rows(part[0], prompts, places[0]) for part in parts)
        found = [_sdpa(layer, q, k, v, None)]
        if mask is not None:
            q, own_k, own_v = (pad_rows(part[1], answers, places[1]) for part in parts)
            times = len(answers.ids) // len(prompts.ids)
            k, v = (torch.cat([_repeated(a, times), b], dim=2) for a, b in ((k, own_k), (v, own_v)))
            found.append(_sdpa(layer, q, k, v, mask))
        return torch.cat([f.transpose(1, 2).flatten(0, 1).flatten(1)[at] for f, at in zip(found, places, strict=True)])

    return attend


def _answer_mask(prompts: Segment, answers: Segment, dtype: torch.dtype) -> Tensor:
    """Return the additive mask of answers [N,1,T2,T1+T2]: 0 for their prompt and their own past, -inf elsewhere."""
    width = answers.ids.shape[1]
    before = torch.zeros(prompts.mask.shape, dtype=dtype, device=prompts.mask.device)
    before = before.masked_fill_(~prompts.mask, -torch.inf)
    before = _repeated(before, len(answers.ids) // len(prompts.ids))[:, None, None].expand(-1, -1, width, -1)
    causal = torch.full((width, width), -torch.inf, dtype=dtype, device=before.device).triu(1)
    return torch.cat([before, causal.expand(len(answers.ids), 1, -1, -1)], dim=-1)


def _repeated(x: Tensor, times: int) -> Tensor:
    """Return each row of x [N,*] `times` times.

    Its gradient is added up in a fixed order, unlike that of `repeat_interleave`.
    """
    return x[:, None].expand(-1, times, *x.shape[1:]).flatten(0, 1)


def pad_rows(packed: Tensor, segment: Segment, places: Tensor) -> Tensor:
    """Return packed vectors [M,heads,head_dim] as rows [N,heads,T,head_dim], with zeros in the padding.

    places: where each packed token stands in the flattened mask of the segment [M]
    """
    n, width = segment.ids.shape
    flat = packed.new_zeros(n * width, *packed.shape[1:]).index_copy(0, places, packed)
    return flat.view(n, width, *packed.shape[1:]).transpose(1, 2)


def _sdpa(layer: PackedLayer, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Return the attention of q [N,query,T,head_dim] to k and v [N,kv,T2,head_dim].

    mask: added to the scores [N,1,T,T2]; None means causal
    """
    grouped = q.shape[1] != k.shape[1]
    if grouped and mask is not None and q.is_cuda:  # No fused CUDA kernel supports both grouped heads and a mask.
        k, v = (_repeated(x.flatten(0, 1), q.shape[1] // k.shape[1]).unflatten(0, q.shape[:2]) for x in (k, v))
        grouped = False
    return F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=mask,
        is_causal=mask is None,
        dropout_p=layer.weights.dropout,
        scale=layer.weights.scaling,
        enable_gqa=grouped,
    )


# -- which models ------------------------------------------------------------------------------------------------------

_supported: WeakKeyDictionary[PreTrainedModel, tuple[bool, bool]] = WeakKeyDictionary()


def supports_packed(model: PreTrainedModel, length: int = 0) -> bool:
    """Return whether this module computes what the model computes. It is tried out once for each model.

    A model that has been given adapters is tried again.

    length: tokens of the longest text, which may be too long for a sliding window of the model
    """
    now = was_adapted(model)
    tried, found = _supported.get(model, (None, False))
    if tried != now:
        found = is_known(model) and _agrees(model)
        _supported[model] = now, found
    return found and length <= (family_of(model).window or length)


def was_adapted(model: PreTrainedModel) -> bool:
    """Return whether peft has put adapters into a model. Verdicts from before that are of other modules."""
    return hasattr(model, "peft_config")


def decide(model: PreTrainedModel, supported: bool) -> None:
    """Take over what was found of a model whose weights are not here as a whole, and on which nothing is tried out."""
    _supported[model] = was_adapted(model), supported


@torch.no_grad()
def _agrees(model: PreTrainedModel) -> bool:
    """Return whether the hidden states of a small batch are those of transformers."""
    body: Any = model.base_model
    training, device = model.training, model.device
    ids = (torch.arange(12, device=device) % len(body.get_input_embeddings().weight)).view(2, 6)
    rows = Segment(ids, torch.ones_like(ids, dtype=torch.bool), torch.arange(6, device=device).expand(2, 6))
    model.eval()
    try:
        ours = forward_packed(model, torch.arange(12, device=device), rows)
        theirs = body(input_ids=ids, use_cache=False).last_hidden_state.flatten(0, 1)
    except (TypeError, AttributeError, RuntimeError):
        return False
    finally:
        model.train(training)
    difference, scale = (ours - theirs).double(), max(1.0, float(theirs.double().std()))
    if model.dtype == torch.float32:
        return bool(difference.abs().max() <= 1e-4 * scale)
    return bool(difference.square().mean().sqrt() <= 0.1 * scale)  # Both round in every layer.
