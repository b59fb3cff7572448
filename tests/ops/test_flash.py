"""Attention as GPUs compute it puts prompts before their answers, for flash attention of rows of all lengths."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from prefloop.kernels import native
from prefloop.kernels.attention import Heads, Plan, Reach, Rope, _reach, attention, plan


def bottom_right(q: Tensor, k: Tensor, v: Tensor, reach: Reach, scaling: float) -> Tensor:
    """Compute what `causal` asks of flash attention, a row at a time."""
    found = []
    rows = zip(reach.starts[:-1], reach.starts[1:], reach.key_starts[:-1], reach.key_starts[1:], strict=True)
    for start, end, key_start, key_end in rows:
        queries, keys = int(end - start), int(key_end - key_start)
        mask = torch.ones(queries, keys, dtype=torch.bool, device=q.device).tril(keys - queries)
        given = q[start:end].transpose(0, 1), k[key_start:key_end].transpose(0, 1), v[key_start:key_end].transpose(0, 1)
        read = F.scaled_dot_product_attention(*given, attn_mask=mask, scale=scaling, enable_gqa=True)
        found.append(read.transpose(0, 1))
    return torch.cat(found)


def packed(times: int, size: int, device: str, dtype: torch.dtype) -> tuple[Tensor, Rope, Plan]:
    prompts = torch.tensor([5, 1, 9])
    answers = None if times == 0 else torch.tensor([4, 0, 7, 3, 1, 12])[: 3 * times]
    rows = prompts if answers is None else torch.cat([prompts, answers])
    heads = Heads(4, 2)
    draw = torch.Generator().manual_seed(0)
    vectors = torch.randn(int(rows.sum()), heads.all, size, generator=draw).to(device, dtype)
    angle = torch.randn(len(vectors), 1, size // 2, generator=draw).to(device)
    made = plan(heads, prompts.to(device), None if answers is None else answers.to(device))
    if made.reach is None:
        made = replace(made, reach=_reach(prompts, rows, times))
    return vectors, (angle.cos().to(dtype), angle.sin().to(dtype)), made


@pytest.mark.skipif(not native.AVAILABLE, reason="no compiled code here: is there a C compiler?")
@pytest.mark.parametrize("times", [0, 1, 2])
def test_prompts_put_before_their_answers_are_read_as_where_they_stand(
    times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way of GPUs, with a slow stand-in for flash attention, gives the same as compiled code, gradients too."""
    monkeypatch.setattr("prefloop.kernels.attention.causal", bottom_right)
    vectors, rope, made = packed(times, 8, "cpu", torch.float32)
    slope = torch.randn(len(vectors), 32, generator=torch.Generator().manual_seed(1))
    said = []
    for how in (made, replace(made, reach=None)):
        mine = vectors.clone().requires_grad_()
        found = attention(mine, rope, how, 0.4)
        found.backward(slope)
        assert mine.grad is not None
        said.append((found.detach(), mine.grad))
    for ours, compiled in zip(*said, strict=True):
        assert torch.allclose(ours, compiled, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="flash attention needs a GPU")
@pytest.mark.parametrize("times", [0, 1, 2])
@pytest.mark.parametrize("size", [8, 64, 128])
def test_flash_attention_reads_what_it_is_asked_to(size: int, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16 it is within 0.03 of the slow stand-in in float32, gradients too."""
    vectors, rope, made = packed(times, size, "cuda", torch.bfloat16)
    slope = torch.randn(len(vectors), 4 * size, generator=torch.Generator().manual_seed(1)).cuda()
    said = []
    for dtype in (torch.bfloat16, torch.float32):
        mine = vectors.to(dtype, copy=True).requires_grad_()
        found = attention(mine, (rope[0].to(dtype), rope[1].to(dtype)), made, 0.4)
        found.backward(slope.to(dtype))
        assert mine.grad is not None
        said.append((found.detach().float(), mine.grad.float()))
        monkeypatch.setattr("prefloop.kernels.attention.causal", bottom_right)
    for ours, exact in zip(*said, strict=True):
        assert (ours - exact).abs().max() <= 0.03 * exact.abs().max()
