"""The fast decoders say what transformers says, whoever leaves or comes; and only where they do are they used."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prefloop.engine.base import Sampling
from prefloop.engine.decoding import sampler
from prefloop.engine.decoding.base import Decoder
from prefloop.engine.decoding.compiled import CompiledDecoder
from prefloop.engine.decoding.packed import PackedDecoder
from prefloop.engine.decoding.select import decoder_for
from prefloop.kernels import native
from prefloop.models import packed
from tiny_models import causal, uneven

PROMPTS = [[5, 6, 7, 8, 9], [5], [11, 12, 13]]
KINDS = ["Llama", "Qwen2", "Qwen3", "GPTNeoX", "GPT2", "Gemma3"]
compiled = pytest.mark.skipif(not native.AVAILABLE, reason="native.c was not compiled here: is there a C compiler?")
FAST = [PackedDecoder, pytest.param(CompiledDecoder, marks=compiled)]


@torch.no_grad()
@pytest.mark.parametrize("fast", FAST)
@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_transformers(kind: str, fast: type[Decoder]) -> None:
    model = uneven(causal(kind, sharp=10.0))
    said = []
    for make in (Decoder, fast):
        decoder = make(model, 7, 12)
        logits = [decoder.add(PROMPTS, [2, 1, 3])]
        for t in range(4):
            logits.append(decoder.step(torch.arange(t, t + 6)))
        decoder.keep(torch.tensor([5, 0, 2]))
        for t in range(4):
            logits.append(decoder.step(torch.arange(t, t + 3)))
        said.append(torch.cat(logits))
    assert said[0].std() > 0.5
    assert torch.allclose(said[0], said[1], atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("fast", FAST)
@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_come_later_are_read_as_if_alone(kind: str, fast: type[Decoder]) -> None:
    """Three rows start, one leaves, two come with a longer prompt, and all grow on; each is compared with its row
    alone.
    """
    model = uneven(causal(kind, sharp=10.0))
    decoder = fast(model, 4, 8)
    decoder.add([[5, 6], [7]], [2, 1])
    for t in range(3):
        decoder.step(torch.arange(t, t + 3))
    decoder.keep(torch.tensor([0, 2]))
    first = decoder.add([[9, 8, 7, 6, 5]], [2])
    texts = [[5, 6, 0, 1, 2], [7, 2, 3, 4], [9, 8, 7, 6, 5], [9, 8, 7, 6, 5]]
    assert torch.allclose(first, torch.stack([slow(model, texts[2])] * 2), atol=1e-4)
    for t in range(4):
        tokens = torch.arange(20 + t, 24 + t)
        logits = decoder.step(tokens)
        texts = [[*text, int(token)] for text, token in zip(texts, tokens, strict=True)]
        assert torch.allclose(logits, torch.stack([slow(model, text) for text in texts]), atol=1e-4)
    decoder.keep(torch.tensor([1]))
    assert torch.allclose(decoder.step(torch.tensor([3]))[0], slow(model, [*texts[1], 3]), atol=1e-4)


def slow(model: Any, ids: list[int]) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=torch.tensor([ids])).logits[0, -1]
    return logits


@torch.no_grad()
@pytest.mark.parametrize("fast", FAST)
@pytest.mark.parametrize("shape", ["heads of 32", "heads of 64, 3 to a group", "heads of 128", "heads of 6"])
def test_long_texts_and_every_shape_of_heads(shape: str, fast: type[Decoder]) -> None:
    """Prompts and answers have more keys than are held at one time, in matrices that fill no whole panel."""
    size = int(shape.split()[2].rstrip(","))
    heads = {"num_attention_heads": 6, "num_key_value_heads": 2} if "3 to" in shape else {}
    sizes = {"head_dim": size, "hidden_size": 18, "intermediate_size": 27, "max_position_embeddings": 400}
    model = uneven(causal(vocab=53, sharp=8.0, **sizes, **heads))
    draw = torch.Generator().manual_seed(0)
    prompts = [torch.randint(3, 53, (n,), generator=draw).tolist() for n in (150, 2)]
    answer = torch.randint(3, 53, (140, 3), generator=draw)
    decoder = fast(model, 3, 140)
    said = [decoder.add(prompts, [1, 2]), *(decoder.step(tokens) for tokens in answer)]
    for row, prompt in enumerate([prompts[0], prompts[1], prompts[1]]):
        whole = model(input_ids=torch.tensor([[*prompt, *answer[:, row].tolist()]])).logits[0, len(prompt) - 1 :]
        assert whole.std() > 0.3
        assert torch.allclose(torch.stack(said, dim=1)[row], whole, atol=1e-4)


@torch.no_grad()
@compiled
def test_the_number_of_threads_changes_nothing() -> None:
    model, said = causal(), []
    before = torch.get_num_threads()
    for threads in (1, 3):
        torch.set_num_threads(threads)
        try:
            decoder = CompiledDecoder(model, 50, 3)
            said.append(torch.cat([decoder.add(PROMPTS, [20, 20, 10]), decoder.step(torch.arange(50) % 40)]))
        finally:
            torch.set_num_threads(before)
    assert torch.equal(*said)


@pytest.mark.parametrize("make", FAST)
@pytest.mark.parametrize("batch", [64, 7])
def test_samples_are_those_of_the_slow_way(batch: int, make: type[Decoder], monkeypatch: pytest.MonkeyPatch) -> None:
    """The tokens are the same, and their log-probabilities are within 1e-5."""
    model = causal(sharp=14.0)
    prompts, keys = [p for p in PROMPTS for _ in range(30)], list(range(90))
    monkeypatch.setattr(sampler, "decoder_for", lambda *given: make(*given[:3]))
    fast = sampler.generate(model, (1, 2), prompts, keys, Sampling(20, batch=batch), 3)
    monkeypatch.setattr(sampler, "decoder_for", lambda *given: Decoder(*given[:3]))
    monkeypatch.setattr(native, "AVAILABLE", False)
    slow = sampler.generate(model, (1, 2), prompts, keys, Sampling(20, batch=batch), 3)
    assert len({len(s.ids) for s in slow}) > 5, "samples all as long show nothing"
    assert [s.ids for s in fast] == [s.ids for s in slow] and [s.ended for s in fast] == [s.ended for s in slow]
    for a, b in zip(fast, slow, strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-5)


@pytest.mark.parametrize("fast", FAST)
def test_those_that_end_make_room_at_once(fast: type[Decoder], monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes fewer steps than batch after batch, for the same samples."""
    model = causal(sharp=14.0)
    steps = {Decoder: 0, fast: 0}
    for kind in steps:
        step = kind.step

        def counted(self: Any, *given: Any, kind: Any = kind, step: Any = step) -> Any:
            steps[kind] += 1
            return step(self, *given)

        monkeypatch.setattr(kind, "step", counted)
        monkeypatch.setattr(sampler, "decoder_for", lambda *given, kind=kind: kind(*given[:3]))
        sampler.generate(
            model, (1, 2, 3), [p for p in PROMPTS for _ in range(64)], range(192), Sampling(40, batch=16), 3
        )
    assert steps[fast] < 0.6 * steps[Decoder]


def test_only_models_that_agree_are_read_the_lean_way() -> None:
    assert type(decoder_for(causal(), 1, 4, 9)) is not Decoder
    for other in (causal("GPT2", resid_pdrop=0.1), causal("Gemma2"), causal("Mistral", sliding_window=4)):
        assert not packed.supports_packed(other) and type(decoder_for(other, 1, 4, 9)) is Decoder
    assert packed.supports_packed(causal("Mistral", sliding_window=None))
    for windowed in (causal("Mistral", sliding_window=24), causal("Gemma3")):
        assert type(decoder_for(windowed, 1, 4, 24)) is not Decoder and type(decoder_for(windowed, 1, 4, 25)) is Decoder
    assert not packed.supports_packed(causal("Gemma3", use_bidirectional_attention=True)), "a model that looks ahead"
    adapted = causal()
    adapted.model.layers[0].self_attn.q_proj = torch.nn.Sequential(adapted.model.layers[0].self_attn.q_proj)
    assert not packed.supports_packed(adapted), "an adapter in place of a matrix"
    longer = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    assert not packed.supports_packed(causal(rope_parameters=longer))
    odd = causal()
    odd.model.layers[0].mlp.register_forward_hook(lambda *a: a[-1] * 2)
    assert not packed.supports_packed(odd), "a model that computes something else on the way"


@compiled
def test_what_compiled_code_does_not_know_is_read_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    for known in (causal(), causal("Qwen3")):
        assert type(decoder_for(known, 1, 4, 9)) is CompiledDecoder
    relu = uneven(causal(hidden_act="relu"))
    for other in (causal().to(torch.bfloat16), causal().double(), causal(head_dim=512), relu):
        assert type(decoder_for(other, 1, 4, 9)) is PackedDecoder
    said = []
    with torch.no_grad():
        for make in (Decoder, PackedDecoder):
            decoder = make(relu, 3, 4)
            decoder.add(PROMPTS, [1, 1, 1])
            said.append(decoder.step(torch.tensor([3, 4, 5])))
    assert torch.allclose(said[0], said[1], atol=1e-4)
    monkeypatch.setattr(native, "AVAILABLE", False)
    assert type(decoder_for(causal(), 1, 4, 9)) is PackedDecoder


@pytest.mark.parametrize("kind", KINDS)
def test_a_bfloat16_model_is_read_as_transformers_reads_it(kind: str) -> None:
    model = causal(kind, sharp=3.0).to(torch.bfloat16)
    assert packed.supports_packed(model)
    said = []
    with torch.no_grad():
        for make in (Decoder, PackedDecoder):
            decoder = make(model, 3, 4)
            decoder.add(PROMPTS, [1, 1, 1])
            said.append(decoder.step(torch.tensor([3, 4, 5])).float())
    assert (said[0] - said[1]).abs().max() < 0.05 * said[0].std()


VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("Llama", {"hidden_act": "gelu"}),
    ("Llama", {"hidden_act": "gelu_pytorch_tanh", "attention_bias": True, "mlp_bias": True}),
    ("Gemma3", {"query_pre_attn_scalar": 3, "hidden_activation": "silu"}),
    ("GPTNeoX", {"use_parallel_residual": False, "rotary_pct": 1.0}),
    ("GPTNeoX", {"attention_bias": False, "hidden_act": "gelu_new"}),
    ("GPT2", {"activation_function": "gelu", "scale_attn_by_inverse_layer_idx": True, "n_inner": 24}),
    ("GPT2", {"activation_function": "silu", "scale_attn_weights": False}),
]


@torch.no_grad()
@pytest.mark.parametrize("fast", FAST)
@pytest.mark.parametrize(("kind", "settings"), VARIANTS, ids=lambda x: x if isinstance(x, str) else "+".join(x))
def test_what_a_familys_settings_change_is_known(kind: str, settings: dict[str, Any], fast: type[Decoder]) -> None:
    model = uneven(causal(kind, sharp=10.0, **settings))
    usual = uneven(causal(kind, sharp=10.0))
    said = []
    for make, some in ((Decoder, model), (fast, model), (Decoder, usual)):
        decoder = make(some, 3, 4)
        logits = [decoder.add(PROMPTS, [1, 1, 1])]
        logits += [decoder.step(torch.tensor([3, 4, 5]) + t) for t in range(3)]
        said.append(torch.cat(logits))
    assert torch.allclose(said[0], said[1], atol=1e-4)
    assert not torch.allclose(said[0], said[2], atol=1e-2), "a setting that changes nothing shows nothing"
    assert type(decoder_for(model, 1, 4, 9)) is not Decoder


@torch.no_grad()
@pytest.mark.parametrize("fast", FAST)
@pytest.mark.parametrize("act", ["silu", "gelu", "gelu_new"])
def test_what_the_wide_matrices_make_may_be_large(act: str, fast: type[Decoder]) -> None:
    model = uneven(causal("GPT2", sharp=10.0, activation_function=act))
    for block in model.transformer.h:
        block.mlp.c_fc.bias.copy_(torch.linspace(-200, 20, len(block.mlp.c_fc.bias)))
    said = []
    for make in (Decoder, fast):
        decoder = make(model, 3, 4)
        said.append(torch.cat([decoder.add(PROMPTS, [1, 1, 1]), decoder.step(torch.tensor([3, 4, 5]))]))
    assert said[0].std() > 0.5 and torch.allclose(said[0], said[1], atol=1e-4)


@compiled
def test_more_positions_than_were_learned_are_an_error_not_whatever_lies_there_in_memory() -> None:
    decoder = CompiledDecoder(causal("GPT2"), 1, 4)
    with pytest.raises(IndexError, match="64 positions"), torch.no_grad():
        decoder.add([[5] * 65], [1])
