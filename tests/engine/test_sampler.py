"""The sampler draws from the distribution it says it does, and what it draws does not depend on company."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, kstest
from transformers import AutoTokenizer, LlamaForCausalLM

from prefloop.batch import collate
from prefloop.engine.base import Sampled, Sampling
from prefloop.engine.decoding.room import OF_ALL, cache_bytes, rows_that_fit
from prefloop.engine.decoding.sampler import choose, generate, uniforms
from prefloop.errors import TrainingError
from prefloop.kernels.memory import free_memory, total_memory
from prefloop.models.policy import Policy
from tiny_models import causal

PROMPTS = [[5, 6, 7, 8, 9], [5], [11, 12], [30, 31, 32, 33, 34, 35, 36], [2, 3], [39]]


@pytest.fixture(scope="module")
def model() -> Any:
    return causal(sharp=14.0)


def draw(model: Any, prompts: list[list[int]], sampling: Sampling, stops: tuple[int, ...] = (1,), seed: int = 3) -> Any:
    return generate(model, stops, prompts, list(range(100, 100 + len(prompts))), sampling, seed)


def test_uniforms_are_uniform_and_a_function_of_seed_key_and_position() -> None:
    keys = np.arange(20_000, dtype=np.uint64)
    u = uniforms(1, keys, 0)
    assert kstest(u, "uniform").pvalue > 0.001
    assert np.array_equal(u, uniforms(1, keys, 0))
    for other in (uniforms(2, keys, 0), uniforms(1, keys + np.uint64(20_000), 0), uniforms(1, keys, 1)):
        assert abs(np.corrcoef(u, other)[0, 1]) < 0.03
    assert ((u > 0) & (u < 1)).all()


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.6, 1.0), (1.7, 1.0), (1.0, 0.8), (0.7, 0.5)])
def test_tokens_come_as_often_as_the_model_says(model: Any, temperature: float, top_p: float) -> None:
    """A chi-square test compares 4000 first tokens with softmax(logits / T), cut to the nucleus by a slow twin."""
    n = 4000
    drawn = draw(model, [PROMPTS[0]] * n, Sampling(1, temperature, top_p, batch=1000))
    with torch.no_grad():
        p = torch.softmax(model(input_ids=torch.tensor([PROMPTS[0]])).logits[0, -1].double() / temperature, 0).tolist()
    kept, mass = set(), 0.0
    for token in sorted(range(40), key=lambda t: -p[t]):
        if mass < top_p:
            kept.add(token)
            mass += p[token]
    expected = np.array([p[t] / mass if t in kept else 0.0 for t in range(40)]) * n
    found = np.bincount([s.ids[0] for s in drawn], minlength=40)
    assert found[expected == 0].sum() == 0
    common = expected >= 5
    f, e = np.append(found[common], found[~common].sum()), np.append(expected[common], expected[~common].sum())
    keep = e > 0
    assert common.sum() >= 2, "a distribution of one token shows nothing"
    assert chisquare(f[keep], e[keep] * f.sum() / e.sum()).pvalue > 0.001
    for s in drawn[:50]:
        assert s.logprobs[0] == pytest.approx(np.log(expected[s.ids[0]] / n), abs=1e-4)


def test_each_position_draws_anew() -> None:
    """Two tokens in a row of a model that finds all 40 alike are jointly uniform, by chi-square over 5 x 5 cells."""
    drawn = draw(causal(sharp=0.0), [PROMPTS[0]] * 2000, Sampling(2, batch=1000), stops=())
    cells = np.bincount([s.ids[0] // 8 * 5 + s.ids[1] // 8 for s in drawn], minlength=25)
    assert chisquare(cells).pvalue > 0.001


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_samplers_log_probabilities_are_the_learners(model: Any, temperature: float) -> None:
    prompts = [p for p in PROMPTS for _ in range(4)]
    drawn = draw(model, prompts, Sampling(24, temperature, batch=7))
    rows = collate([[*p, *s.ids] for p, s in zip(prompts, drawn, strict=True)], [len(p) for p in prompts])
    with torch.no_grad():
        logp = Policy(model, temperature)(rows).logp[rows.action]
    sampler = torch.tensor([x for s in drawn for x in s.logprobs])
    assert (logp - sampler).abs().max() < 1e-5
    assert (logp - sampler).abs().mean() < 2e-6


def test_a_sample_does_not_depend_on_who_shares_its_batch(model: Any) -> None:
    prompts, keys = [p for p in PROMPTS for _ in range(3)], [7 * i + 1 for i in range(18)]
    whole = generate(model, (1,), prompts, keys, Sampling(16, batch=64), 5)
    assert len({s.ids for s in whole}) > 12, "samples all alike show nothing"
    for batch in (1, 5):
        again = generate(model, (1,), prompts, keys, Sampling(16, batch=batch), 5)
        assert [s.ids for s in again] == [s.ids for s in whole]
    back = generate(model, (1,), prompts[::-1], keys[::-1], Sampling(16, batch=64), 5)
    assert [s.ids for s in back[::-1]] == [s.ids for s in whole]
    some = generate(model, (1,), prompts[4:9], keys[4:9], Sampling(16, batch=64), 5)
    assert [s.ids for s in some] == [s.ids for s in whole[4:9]]
    for a, b in zip(whole, back[::-1], strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-5)


def test_another_key_or_seed_gives_another_sample(model: Any) -> None:
    one = generate(model, (), [PROMPTS[0]], [1], Sampling(16), 0)[0].ids
    assert one != generate(model, (), [PROMPTS[0]], [2], Sampling(16), 0)[0].ids
    assert one != generate(model, (), [PROMPTS[0]], [1], Sampling(16), 1)[0].ids
    assert generate(model, (), [PROMPTS[0]], [-5], Sampling(3), 2**62)[0].ids  # Any 64-bit key and seed will do.


def slow_greedy(model: Any, prompt: list[int], n: int, stops: tuple[int, ...]) -> list[int]:
    ids = list(prompt)
    for _ in range(n):
        with torch.no_grad():
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] in stops:
            break
    return ids[len(prompt) :]


@pytest.mark.parametrize("kind", ["Llama", "GPT2", "Gemma2"])
def test_greedy_takes_the_most_likely_token_each_time(kind: str) -> None:
    model = causal(kind, sharp=12.0 if kind != "GPT2" else 20.0)
    stops = (1, *range(20, 24))
    drawn = draw(model, PROMPTS, Sampling(12, temperature=0.0), stops)
    assert [list(s.ids) for s in drawn] == [slow_greedy(model, p, 12, stops) for p in PROMPTS]


def test_a_pretrained_model_says_what_transformers_generate_says(stories260k: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(stories260k).eval()
    tokenizer = AutoTokenizer.from_pretrained(stories260k)
    prompts = [tokenizer(text)["input_ids"] for text in ("Once upon a time", "The dog")]
    ours = generate(model, (2,), prompts, [0, 1], Sampling(40, temperature=0.0), 0)
    for prompt, sample in zip(prompts, ours, strict=True):
        theirs = model.generate(torch.tensor([prompt]), max_new_tokens=40, do_sample=False)[0, len(prompt) :]
        assert list(sample.ids) == theirs.tolist()


def test_the_pretrained_models_published_story_is_reproduced(stories260k: Path) -> None:
    """The text from an empty prompt is greedy, as the model's author printed it."""
    model = LlamaForCausalLM.from_pretrained(stories260k).eval()
    tokenizer = AutoTokenizer.from_pretrained(stories260k)
    sample = generate(model, (2,), [[tokenizer.bos_token_id]], [0], Sampling(100, temperature=0.0), 0)[0]
    assert (
        tokenizer.decode(sample.ids)
        .strip()
        .startswith(
            "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she "
            "saw a big, red ball. She wanted to play with it, but it was too high.\nLily's mom said"
        )
    )


def test_any_of_several_end_tokens_stops_a_completion_and_is_part_of_it(model: Any) -> None:
    stops = tuple(range(1, 12))
    drawn: list[Sampled] = draw(model, PROMPTS * 20, Sampling(30), stops)
    for s in drawn:
        assert all(t not in stops for t in s.ids[:-1])
        assert s.ended == (s.ids[-1] in stops)
        assert s.ended or len(s.ids) == 30
        assert len(s.logprobs) == len(s.ids)
    assert len({s.ids[-1] for s in drawn if s.ended}) > 2


def test_without_end_tokens_a_completion_runs_to_the_limit(model: Any) -> None:
    for s in draw(model, PROMPTS, Sampling(9), stops=()):
        assert len(s.ids) == 9 and not s.ended


def test_an_end_token_in_the_last_place_counts_as_ended(model: Any) -> None:
    drawn = draw(model, [PROMPTS[0]] * 60, Sampling(1), stops=tuple(range(1, 20)))
    assert {s.ended for s in drawn} == {True, False}
    assert all(s.ended == (s.ids[0] < 20) for s in drawn)


@pytest.mark.parametrize("vocabulary", [7, 64, 1000, 4099])
def test_draws_by_blocks_are_the_draws_by_one_sum(vocabulary: int) -> None:
    """The slow twin adds up the whole distribution in double precision. They may part where u hits a boundary."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5000, vocabulary, generator=generator) * 3
    u = torch.rand(5000, generator=generator, dtype=torch.float64)
    token, logp = choose(logits, u, 1.0, 1.0)
    cdf = torch.softmax(logits.double(), -1).cumsum(-1)
    slow = torch.searchsorted(cdf, u[:, None]).squeeze(1).clamp(max=vocabulary - 1)
    apart = token != slow
    assert int(apart.sum()) <= 5
    near = (cdf.gather(1, torch.minimum(token, slow)[:, None]).squeeze(1) - u).abs()
    assert (near[apart] < 1e-6).all()
    assert torch.allclose(
        logp.double(), torch.log_softmax(logits.double(), -1).gather(1, token[:, None])[:, 0], atol=2e-6
    )


def test_the_ends_of_the_uniform_range_choose_possible_tokens() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, 1.0, -torch.inf], [-torch.inf, 0.0, 1.0, -torch.inf]])
    u = torch.tensor([0.5 / 2**53, 1 - 0.5 / 2**53], dtype=torch.float64)
    token, logp = choose(logits, u, 1.0, 1.0)
    assert token.tolist() == [1, 2] and torch.isfinite(logp).all()


def test_weights_that_are_no_numbers_give_log_probabilities_that_are_none() -> None:
    token, logp = choose(torch.full((2, 40), torch.nan), torch.tensor([0.1, 0.9], dtype=torch.float64), 1.0, 1.0)
    assert (token < 40).all() and torch.isnan(logp).all()


def test_rounding_never_lets_an_impossible_token_through() -> None:
    """The cumulative sum of single-precision probabilities ends a little beside 1."""
    logits = torch.randn(400, 3000, generator=torch.Generator().manual_seed(0)) * 3
    logits[:, -1] = -torch.inf
    _, logp = choose(logits, torch.full((400,), 1 - 2.0**-53, dtype=torch.float64), 1.0, 1.0)
    assert torch.isfinite(logp).all()


def test_the_nucleus_always_keeps_the_most_likely_token() -> None:
    token, logp = choose(torch.tensor([[0.0, 3.0, 0.0]]), torch.tensor([0.999], dtype=torch.float64), 1.0, 1e-6)
    assert token.tolist() == [1] and float(logp) == pytest.approx(0.0, abs=1e-6)


def test_rows_are_as_many_as_their_keys_and_values_fit_into_memory(model: Any) -> None:
    each = 100 * 2 * 2 * 8 * 4  # tokens, keys and values, layers, one head of 8 numbers, bytes
    assert cache_bytes(model.config, torch.float32, 100) == each
    assert rows_that_fit(model, 128, 100, free=10**9) == 128
    assert [rows_that_fit(model, 128, 100, free=n * each) for n in (1, 5, 25, 90, 110, 160)] == [1, 4, 16, 64, 64, 128]
    whole = int(OF_ALL * total_memory("cpu")) // 3  # Of this length three rows fit, if all is free.
    assert rows_that_fit(model, 128, whole // (each // 100), free=10**15) == 2


def test_layers_with_a_window_or_without_keys_need_less_room() -> None:
    full, windowed = causal("Mistral", sliding_window=None).config, causal("Gemma3", sliding_window=24).config
    assert cache_bytes(full, torch.float32, 100) == 100 * cache_bytes(full, torch.float32, 1)
    assert cache_bytes(windowed, torch.float32, 100) == (100 + 24) * 2 * 8 * 4
    assert cache_bytes(windowed, torch.bfloat16, 20) == (20 + 20) * 2 * 8 * 2


def test_a_text_whose_keys_and_values_cannot_fit_is_refused_in_a_sentence(model: Any) -> None:
    many = free_memory("cpu") // 100
    with pytest.raises(TrainingError, match=r"one text of \d+ tokens needs .* GB for its keys .* Lower max_tokens"):
        draw(model, PROMPTS, Sampling(many))
