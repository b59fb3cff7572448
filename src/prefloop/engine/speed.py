"""Measures how fast this machine learns, scores and samples, on a few layers as wide as a model's."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from prefloop.batch import Rows
from prefloop.config import Model
from prefloop.engine.base import Sampling
from prefloop.engine.decoding import sampler
from prefloop.models.policy import Policy
from prefloop.models.shapes import Shapes, shapes_of
from prefloop.results import Speed

LAYERS, WORDS = 2, 8192  # At most so many are made.
WIDEST = 64_000_000  # Layers with more weights than this are measured narrower.
OPERATIONS = 6e10  # about so many in one pass, which takes a second or two on two cores
DRAWN, LENGTH = 16, 64  # tokens that each text is continued by; tokens of a text that is learnt


def measure(config: Any, shapes: Shapes, settings: Model, device: str, rows: int) -> Speed:
    """Return operations a second. rows: texts that grow at a time

    A few layers with random weights are made and computed by the ways that a run takes; the best of two tries counts.
    """
    began = time.perf_counter()
    small = _fewer_layers(config, shapes)
    counted = shapes_of(small, settings, "the layers that are measured")
    with torch.random.fork_rng([] if device == "cpu" else [device]):
        torch.manual_seed(0)
        model: Any = AutoModelForCausalLM.from_config(small, dtype=shapes.dtype).to(device)
    length = min(LENGTH, counted.context // 2)
    texts = max(2, min(16, int(OPERATIONS / (6 * counted.operations(1, length)) / length)))
    policy, batch, tokens = Policy(model), _rows(texts, length, device), texts * length
    operations = counted.operations(tokens, length / 2)

    def learn() -> None:
        policy.train()
        policy(batch).logp.sum().backward()
        policy.zero_grad(set_to_none=True)

    learning = 3 * operations / _seconds(learn, device)
    policy.eval().requires_grad_(False)
    with torch.no_grad():
        scoring = operations / _seconds(lambda: policy(batch), device)
    drawn = min(DRAWN, counted.context // 4)
    prompts = [[n % counted.vocabulary for n in range(8)]] * rows
    how = Sampling(drawn, batch=rows)
    spent = _seconds(lambda: sampler.generate(model, (), prompts, list(range(rows)), how, 0), device)
    sampling = counted.operations(rows * drawn, drawn / 2) / spent
    return Speed(learning, scoring, sampling, rows, time.perf_counter() - began)


def _fewer_layers(config: Any, shapes: Shapes) -> Any:
    """Return a config of at most two layers; where the model's own are too large, of a Llama with narrower ones."""
    layers, words = min(LAYERS, shapes.layers), min(WORDS, shapes.vocabulary)
    small = copy.deepcopy(config).get_text_config()
    if LAYERS * shapes.layer > WIDEST:
        by = (LAYERS * shapes.layer / WIDEST) ** 0.5
        width = max(64, int(shapes.hidden / by) // 64 * 64)
        inner = max(64, int(shapes.inner / 2 / by) // 64 * 64)
        return LlamaConfig(
            vocab_size=words,
            hidden_size=width,
            intermediate_size=inner,
            num_hidden_layers=layers,
            num_attention_heads=width // 64,
            num_key_value_heads=width // 64,
            tie_word_embeddings=True,
        )
    small.num_hidden_layers, small.vocab_size, small.pad_token_id = layers, words, 0
    if getattr(small, "layer_types", None):
        small.layer_types = small.layer_types[:layers]
    return small


def _rows(texts: int, length: int, device: str) -> Rows:
    ids = torch.arange(texts * length, device=device).view(texts, length) % 100
    return Rows(ids, torch.ones_like(ids, dtype=torch.bool), (torch.arange(length, device=device) > 0).expand_as(ids))


def _seconds(work: Callable[[], object], device: str) -> float:
    """Return the seconds of the faster of two tries, after one that warms up."""
    found = []
    for _ in range(3):
        before = time.perf_counter()
        work()
        if device != "cpu":
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - before)
    return min(found[1:])
