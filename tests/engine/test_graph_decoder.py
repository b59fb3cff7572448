"""A step on a GPU says what transformers says; without a GPU its kernels are interpreted, and nothing is recorded."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prefloop.engine.base import Sampling
from prefloop.engine.decoding import sampler
from prefloop.engine.decoding.base import Decoder
from prefloop.engine.decoding.cuda_graph import GraphDecoder
from prefloop.engine.decoding.packed import PackedDecoder
from prefloop.engine.decoding.select import decoder_for
from prefloop.models import packed
from tiny_models import causal, uneven

PROMPTS = [[5, 6, 7, 8, 9], [5], [11, 12, 13]]


@torch.no_grad()
@pytest.mark.parametrize("together", [True, False])  # Matrices that share an input may be one.
@pytest.mark.parametrize("kind", ["Llama", "Qwen2", "Qwen3", "GPTNeoX", "GPT2", "Gemma3"])
def test_logits_are_those_of_transformers(
    kind: str, together: bool, gpu_kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not together:
        monkeypatch.setattr(packed, "FUSE_UP_TO", 0)
    model = uneven(causal(kind, sharp=10.0)).to(gpu_kernels)
    said = []
    for make in (Decoder, GraphDecoder):
        decoder = make(model, 7, 12)
        logits = [decoder.add(PROMPTS, [2, 1, 3])]
        for t in range(4):
            logits.append(decoder.step(torch.arange(t, t + 6, device=gpu_kernels)))
        decoder.keep(torch.tensor([5, 0, 2], device=gpu_kernels))
        for t in range(4):
            logits.append(decoder.step(torch.arange(t, t + 3, device=gpu_kernels)))
        said.append(torch.cat(logits))
    assert said[0].std() > 0.5
    assert torch.allclose(said[0], said[1], atol=1e-4)


@torch.no_grad()
def test_rows_that_come_later_are_read_as_if_alone_and_those_that_ended_disturb_nobody(gpu_kernels: str) -> None:
    model = uneven(causal(sharp=10.0)).to(gpu_kernels)

    def slow(ids: list[int]) -> torch.Tensor:
        logits: torch.Tensor = model(input_ids=torch.tensor([ids], device=gpu_kernels)).logits[0, -1]
        return logits

    decoder = GraphDecoder(model, 4, 8)
    decoder.add([[5, 6], [7]], [2, 1])
    for t in range(3):
        decoder.step(torch.arange(t, t + 3, device=gpu_kernels))
    decoder.keep(torch.tensor([0, 2], device=gpu_kernels))
    first = decoder.add([[9, 8, 7, 6, 5]], [2])
    texts = [[5, 6, 0, 1, 2], [7, 2, 3, 4], [9, 8, 7, 6, 5], [9, 8, 7, 6, 5]]
    assert torch.allclose(first, torch.stack([slow(texts[2])] * 2), atol=1e-4)
    ended = torch.tensor([False, True, False, False], device=gpu_kernels)
    for t in range(4):
        tokens = torch.arange(20 + t, 24 + t)
        logits = decoder.step(tokens.to(gpu_kernels), ended)
        texts = [[*text, int(token)] for text, token in zip(texts, tokens, strict=True)]
        expected = torch.stack([slow(text) for text in texts])
        assert torch.allclose(logits[~ended], expected[~ended], atol=1e-4)


@pytest.mark.parametrize("batch", [15, 4])
def test_samples_are_those_of_the_slow_way(batch: int, gpu_kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tokens are the same, also of rows that come later, and their log-probabilities are within 1e-5."""
    model = causal(sharp=14.0).to(gpu_kernels)
    prompts, keys = [p for p in PROMPTS for _ in range(5)], list(range(15))
    said = []
    for make in (GraphDecoder, Decoder):
        monkeypatch.setattr(sampler, "decoder_for", lambda *given, make=make: make(*given[:3]))
        said.append(sampler.generate(model, (1, 2), prompts, keys, Sampling(9, batch=batch), 3))
    fast, slow = said
    assert len({len(s.ids) for s in slow}) > 3, "samples all as long show nothing"
    assert [s.ids for s in fast] == [s.ids for s in slow] and [s.ended for s in fast] == [s.ended for s in slow]
    for a, b in zip(fast, slow, strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-5)


def test_it_is_for_models_on_a_gpu_that_are_read_the_lean_way(
    gpu_kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kind(model: Any) -> type[Decoder]:
        return type(decoder_for(model.to(gpu_kernels), 1, 4, 9))

    if gpu_kernels == "cpu":
        assert kind(causal()) is not GraphDecoder
        return
    assert kind(causal()) is GraphDecoder and kind(causal().bfloat16()) is GraphDecoder
    assert kind(causal(head_dim=512)) is PackedDecoder and kind(causal().double()) is PackedDecoder
    assert kind(causal("Gemma2")) is Decoder
