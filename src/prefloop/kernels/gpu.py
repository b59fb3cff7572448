"""Computes what stands between matrices on a GPU, one kernel each, by Triton (which comes with torch's CUDA builds).

Where Triton is missing, `AVAILABLE` is false and torch does the same in more kernels. With TRITON_INTERPRET=1 the same
code runs on a CPU, very slowly, so that the tests run it everywhere.
"""

from __future__ import annotations

import os
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from prefloop.kernels.plain import is_plain, plain_only

AVAILABLE = bool(torch.version.cuda or os.environ.get("TRITON_INTERPRET")) and find_spec("triton") is not None
if AVAILABLE:
    import triton
    import triton.language as tl
else:
    triton = tl = None  # type: ignore[assignment]

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
BLOCK = 64  # So many keys are read at a time.
WIDE = 1024  # A program of the other kernels computes so many numbers.
WIDEST = 256  # A head has at most so many numbers.


def fits(x: Tensor) -> bool:
    """Return whether these kernels can compute with it."""
    return AVAILABLE and x.is_cuda and x.dtype in FLOATS and is_plain(x)


def _jit(function: Any, **how: Any) -> Any:
    return triton.jit(function, **how) if AVAILABLE else function


# -- gates -------------------------------------------------------------------------------------------------------------


@_jit
def _gate(x, out, width, block: tl.constexpr):  # type: ignore[no-untyped-def]
    row, at = tl.program_id(0).to(tl.int64), tl.program_id(1) * block + tl.arange(0, block)
    here = at < width
    gate = tl.load(x + row * 2 * width + at, mask=here).to(tl.float32)
    up = tl.load(x + row * 2 * width + width + at, mask=here).to(tl.float32)
    tl.store(out + row * width + at, gate / (1 + tl.exp(-gate)) * up, mask=here)


@_jit
def _gate_back(x, slope, out, width, block: tl.constexpr):  # type: ignore[no-untyped-def]
    row, at = tl.program_id(0).to(tl.int64), tl.program_id(1) * block + tl.arange(0, block)
    here = at < width
    gate = tl.load(x + row * 2 * width + at, mask=here).to(tl.float32)
    up = tl.load(x + row * 2 * width + width + at, mask=here).to(tl.float32)
    by = tl.load(slope + row * width + at, mask=here).to(tl.float32)
    share = 1 / (1 + tl.exp(-gate))
    tl.store(out + row * 2 * width + at, by * up * share * (1 + gate * (1 - share)), mask=here)
    tl.store(out + row * 2 * width + width + at, by * gate * share, mask=here)


@plain_only
def gate(x: Tensor) -> Tensor:
    """Return silu(gate) * up [N,H], of gate and up side by side [N,2H]."""
    x = x.contiguous()
    out = x.new_empty(len(x), x.shape[1] // 2)
    if len(x):
        _gate[(len(x), triton.cdiv(out.shape[1], WIDE))](x, out, out.shape[1], WIDE)
    return out


@plain_only
def gate_back(x: Tensor, gradient: Tensor) -> Tensor:
    out = torch.empty_like(x)
    if len(x):
        width = gradient.shape[1]
        _gate_back[(len(x), triton.cdiv(width, WIDE))](x, gradient.contiguous(), out, width, WIDE)
    return out


# -- log-probabilities -------------------------------------------------------------------------------------------------


@_jit
def _logprob(logits, targets, by, logp, log_sum, words, block: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    top, total = float("-inf"), 0.0
    for start in range(0, words, block):
        at = start + tl.arange(0, block)
        x = tl.load(logits + row * words + at, mask=at < words, other=float("-inf")).to(tl.float32) * by
        higher = tl.maximum(top, tl.max(x, 0))
        total = total * tl.exp(top - higher) + tl.sum(tl.exp(x - higher), 0)
        top = higher
    found = top + tl.log(total)
    asked = tl.load(logits + row * words + tl.load(targets + row)).to(tl.float32) * by
    tl.store(log_sum + row, found)
    tl.store(logp + row, asked - found)


@_jit
def _slope(logits, targets, by, log_sum, gradient, words, block: tl.constexpr):  # type: ignore[no-untyped-def]
    row, at = tl.program_id(0).to(tl.int64), tl.program_id(1) * block + tl.arange(0, block)
    here = at < words
    x = tl.load(logits + row * words + at, mask=here).to(tl.float32) * by
    one = tl.where(at == tl.load(targets + row), 1.0, 0.0)
    slope = (one - tl.exp(x - tl.load(log_sum + row))) * tl.load(gradient + row) * by
    tl.store(logits + row * words + at, slope, mask=here)


@plain_only
def logprob(logits: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the log-probability of each target [M] in logits [M,V], and the logarithm of the sum.

    Both are float32, and the logits are read once.
    """
    logp, log_sum = (torch.empty(len(logits), dtype=torch.float32, device=logits.device) for _ in range(2))
    if len(logits):
        given = logits, targets, 1 / temperature, logp, log_sum, logits.shape[1]
        _logprob[(len(logits),)](*given, 4 * WIDE)
    return logp, log_sum


@plain_only
def logprob_back(logits: Tensor, targets: Tensor, temperature: float, log_sum: Tensor, gradient: Tensor) -> Tensor:
    """Write the gradient of the logits in their place, from that of the log-probabilities [M], and return it."""
    if len(logits):
        grid = (len(logits), triton.cdiv(logits.shape[1], WIDE))
        given = logits, targets, 1 / temperature, log_sum, gradient.contiguous(), logits.shape[1]
        _slope[grid](*given, WIDE)
    return logits


# -- drawing -----------------------------------------------------------------------------------------------------------


@_jit
def _block_sum(logits, by, tops, sums, words, blocks, block: tl.constexpr):  # type: ignore[no-untyped-def]
    row, at = tl.program_id(0).to(tl.int64), tl.program_id(1) * block + tl.arange(0, block)
    x = tl.load(logits + row * words + at, mask=at < words, other=float("-inf")).to(tl.float32) * by
    top = tl.max(x, 0)
    place = row * blocks + tl.program_id(1)
    tl.store(tops + place, top)
    tl.store(sums + place, tl.sum(tl.exp(x - tl.where(top == float("-inf"), 0.0, top)), 0))


@_jit
def _draw(  # type: ignore[no-untyped-def]
    logits, by, tops, sums, u, token, logp, words, blocks, block: tl.constexpr, padded_blocks: tl.constexpr
):  # fmt: skip
    row, b = tl.program_id(0).to(tl.int64), tl.arange(0, padded_blocks)
    tops_here = tl.load(tops + row * blocks + b, mask=b < blocks, other=float("-inf"))
    top = tl.max(tops_here, 0)
    sum_here = tl.load(sums + row * blocks + b, mask=b < blocks, other=0.0)
    part = (sum_here * tl.exp(tops_here - top)).to(tl.float64)
    ends = tl.cumsum(part, 0)
    total = tl.max(ends, 0)
    place = tl.load(u + row) * total
    chosen = tl.sum((ends < place).to(tl.int32), 0)
    # Rounding must not lead to a token of no probability, before the first or after the last that has some.
    rest = tl.maximum(place - tl.sum(tl.where(b < chosen, part, 0.0), 0), 1e-300)
    at = chosen * block + tl.arange(0, block)
    x = tl.load(logits + row * words + at, mask=at < words, other=float("-inf")).to(tl.float32) * by
    inner = tl.cumsum(tl.exp(x - top).to(tl.float64), 0)
    rest = tl.minimum(rest, tl.max(inner, 0))
    found = tl.minimum(chosen * block + tl.sum((inner < rest).to(tl.int32), 0), words - 1)
    tl.store(token + row, found.to(tl.int64))
    asked = tl.load(logits + row * words + found).to(tl.float32) * by
    tl.store(logp + row, asked - top - tl.log(total.to(tl.float32)))


@plain_only
def draw(logits: Tensor, u: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Draw as `engine.sampler.choose` does without top-p: token [N], logp [N]. logits [N,V], u [N] float64."""
    logits, (n, words) = logits.contiguous(), logits.shape
    token, logp = u.new_empty(n, dtype=torch.long), u.new_empty(n, dtype=torch.float32)
    if n:
        block = 4 * WIDE
        blocks = triton.cdiv(words, block)
        tops, sums = (logp.new_empty(n, blocks) for _ in range(2))
        _block_sum[(n, blocks)](logits, 1 / temperature, tops, sums, words, blocks, block)
        given = logits, 1 / temperature, tops, sums, u.contiguous(), token, logp, words, blocks
        _draw[(n,)](*given, block, triton.next_power_of_2(blocks))
    return token, logp


# -- rotary positions --------------------------------------------------------------------------------------------------


@_jit
def _rotary(x, cos, sin, out, way, heads, rotated, half, block: tl.constexpr):  # type: ignore[no-untyped-def]
    token, at = tl.program_id(0).to(tl.int64), tl.program_id(1) * block + tl.arange(0, block)
    here = at < heads * half
    head, i = at // half, at % half
    first = token * heads * 2 * half + head * 2 * half + i
    is_rotated = here & (head < rotated)
    c = tl.load(cos + token * half + i, mask=is_rotated, other=1.0).to(tl.float32)
    s = tl.load(sin + token * half + i, mask=is_rotated, other=0.0).to(tl.float32) * way
    a = tl.load(x + first, mask=here).to(tl.float32)
    b = tl.load(x + first + half, mask=here).to(tl.float32)
    tl.store(out + first, a * c - b * s, mask=here)
    tl.store(out + first + half, b * c + a * s, mask=here)


@plain_only
def rotary(vectors: Tensor, cos: Tensor, sin: Tensor, rotated: int, back: bool = False) -> Tensor:
    """Apply rotary positions (Su 2021), half-split, to the first `rotated` of each token's vectors [M,A,head_dim].

    The other vectors stay as they are.

    cos, sin: [M,1,head_dim/2];  back: rotate by the opposite angles, which is also the gradient
    """
    vectors = vectors.contiguous()
    out = torch.empty_like(vectors)
    tokens, heads, head_dim = vectors.shape
    if tokens:
        grid = (tokens, triton.cdiv(heads * (head_dim // 2), WIDE))
        way = -1.0 if back else 1.0
        _rotary[grid](vectors, cos.contiguous(), sin.contiguous(), out, way, heads, rotated, head_dim // 2, WIDE)
    return out


# -- attention of a decoding step --------------------------------------------------------------------------------------


@_jit
def _fold(  # type: ignore[no-untyped-def]
    top, total, read, query, keys, values, count, step, scaling, inside, i, block: tl.constexpr
):  # fmt: skip
    """Continue a softmax (Milakov 2018) with `count` more keys.

    The state is the highest score, the sum of weights, and what was read.
    """
    for start in range(0, count, block):
        j = start + tl.arange(0, block)
        place = j[:, None] * step + i[None]
        there = (j < count)[:, None] & inside[None]
        k = tl.load(keys + place, mask=there, other=0.0)
        v = tl.load(values + place, mask=there, other=0.0)
        score = tl.dot(query, tl.trans(k), input_precision="ieee") * scaling
        score = tl.where((j < count)[None], score, float("-inf"))
        higher = tl.maximum(top, tl.max(score, 1))
        fades, weight = tl.exp(top - higher), tl.exp(score - higher[:, None])
        total = total * fades + tl.sum(weight, 1)
        read = read * fades[:, None] + tl.dot(weight.to(k.dtype), v, input_precision="ieee")
        top = higher
    return top, total, read


@partial(_jit, do_not_specialize=["layer"])
def _attend(  # type: ignore[no-untyped-def]
    vectors, cos, sin, own, row_of, drawn, ended, before, apart, count, out, layer, far, room, scaling,
    kv_heads: tl.constexpr, queries_per_kv: tl.constexpr, head_dim: tl.constexpr,
    padded_queries: tl.constexpr, padded_dim: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    row, kv_head = tl.program_id(0).to(tl.int64) // kv_heads, tl.program_id(0) % kv_heads
    kind = own.dtype.element_ty
    heads = kv_heads * queries_per_kv
    i, h = tl.arange(0, padded_dim), tl.arange(0, padded_queries)
    inside = i < head_dim
    is_query = (h < queries_per_kv)[:, None] & inside[None]
    into = out + row * heads * head_dim + (kv_head * queries_per_kv + h)[:, None] * head_dim + i[None]
    mine, prompt = tl.load(drawn + row), tl.load(count + row)

    # Rotate the new token's queries and key, and keep its key and value.
    half: tl.constexpr = head_dim // 2
    angle = (prompt + mine) * half + i % half
    c = tl.load(cos + angle, mask=inside, other=0.0).to(tl.float32)
    s = tl.load(sin + angle, mask=inside, other=0.0).to(tl.float32)
    other = tl.where(i < half, i + half, i - half)
    s = tl.where(i < half, -s, s)
    token = vectors + row * (heads + 2 * kv_heads) * head_dim
    key_at, value_at = token + (heads + kv_head) * head_dim, token + (heads + kv_heads + kv_head) * head_dim
    key = tl.load(key_at + i, mask=inside, other=0.0).to(tl.float32) * c
    key = (key + tl.load(key_at + other, mask=inside, other=0.0).to(tl.float32) * s).to(kind)
    value = tl.load(value_at + i, mask=inside, other=0.0)
    slot = tl.load(row_of + row)
    keys = own + (slot * kv_heads + kv_head) * room * head_dim
    values = keys + far
    tl.store(keys + mine * head_dim + i, key, mask=inside)
    tl.store(values + mine * head_dim + i, value, mask=inside)
    query_at = token + (kv_head * queries_per_kv + h)[:, None] * head_dim
    query = tl.load(query_at + i[None], mask=is_query, other=0.0).to(tl.float32) * c[None]
    query = query + tl.load(query_at + other[None], mask=is_query, other=0.0).to(tl.float32) * s[None]
    query = query.to(kind)

    # The new token is read first, then the prompt, then the row's own earlier tokens.
    top = tl.sum(query.to(tl.float32) * key.to(tl.float32)[None], 1) * scaling
    total = tl.full([padded_queries], 1.0, tl.float32)
    read = tl.zeros([padded_queries, padded_dim], tl.float32) + value.to(tl.float32)[None]
    if tl.load(ended + row) != 0:  # Nobody reads the result of a row that has ended.
        prompt, mine = prompt * 0, mine * 0
    start, between = tl.load(before + row), tl.load(apart + row)
    if (kv_heads * head_dim) % 8 == 0:  # Then eight numbers are read at once.
        start, between = tl.multiple_of(start, 16), tl.multiple_of(between, 8)
    shared_keys = start.to(tl.pointer_type(kind)) + 2 * layer * between + kv_head * head_dim
    shared_values = shared_keys + between
    top, total, read = _fold(
        top, total, read, query, shared_keys, shared_values, prompt, kv_heads * head_dim, scaling, inside, i, block
    )
    top, total, read = _fold(top, total, read, query, keys, values, mine, head_dim, scaling, inside, i, block)
    tl.store(into, (read / total[:, None]).to(kind), mask=is_query)


@plain_only
def attend(
    vectors: Tensor,
    rope: tuple[Tensor, Tensor],
    own: Tensor,
    layer: int,
    row_of: Tensor,
    drawn: Tensor,
    ended: Tensor,
    prompts: tuple[Tensor, Tensor, Tensor],
    scaling: float,
) -> Tensor:
    """Return what the newest token of each row reads from its prompt, its row and itself; its key and value are kept.

    vectors: [N,A,head_dim] queries, keys and values, not yet rotated
    rope:    cosines and sines by position [positions,head_dim/2]
    own:     [layers,2,rows,kv_heads,room,head_dim] keys and values of rows' own tokens
    row_of:  [N] which row of `own` each row has
    drawn:   [N] how many of these tokens there are
    ended:   [N] rows that are left out: what they read means nothing
    prompts: three numbers [N] for each row: the address of its prompt's first key in the first of the layers, which
             follow each other as keys [tokens,kv_heads,head_dim] and values; how many numbers lie between keys and
             values; how many tokens the prompt has
    returns: [N,query_heads*head_dim]
    """
    (n, heads, head_dim), kv_heads = vectors.shape, own.shape[3]
    queries_per_kv = (heads - 2 * kv_heads) // kv_heads
    out = vectors.new_empty(n, kv_heads * queries_per_kv * head_dim)
    shape = (
        kv_heads,
        queries_per_kv,
        head_dim,
        max(16, triton.next_power_of_2(queries_per_kv)),
        max(16, triton.next_power_of_2(head_dim)),
        BLOCK,
    )
    rows = own[layer], row_of, drawn, ended, *prompts
    _attend[(n * kv_heads,)](
        vectors.contiguous(), *rope, *rows, out, layer, own.stride(1), own.shape[4], scaling, *shape
    )
    return out
