"""Measures sampling and training on a GPU beside `generate`, and beside the device's bandwidth and matrix limits, in
one run.

    python benchmarks/gpu.py --size 0.5B            # a random Llama of half a billion parameters in bfloat16
    python benchmarks/gpu.py --size 5.4M --device cpu --dtype float32      # whether the script works
    python benchmarks/vs_trl.py large --device cuda --dtype bfloat16       # GRPO steps beside TRL

A step of sampling reads all weights once, however many rows there are, and of each row its own keys and values, those
of its prompt once for all its rows: `share` of sampling is these bytes times the steps a second, to the bandwidth of a
large copy. `share` of training is 6 operations a parameter and token, to the rate of a large product of the same type.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import torch
from sampling import SIZES, ours, random_llama, theirs

from prefloop.algorithms.sft import Sft
from prefloop.batch import as_lists, collate
from prefloop.config_section import Optimiser
from prefloop.engine.base import Term
from prefloop.engine.learner import Learner
from prefloop.engine.process import pick_device
from prefloop.models.policy import Policy

PROMPT = 128  # tokens


def timed(work: Callable[[], Any], device: str, times: int = 5) -> float:
    """Return the median seconds, after a warm-up."""
    found = []
    for turn in range(times + 1):
        if device == "cuda":
            torch.cuda.synchronize()
        before = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        if turn:
            found.append(time.perf_counter() - before)
    return statistics.median(found)


def limits(device: str, dtype: torch.dtype, size: int) -> tuple[float, float]:
    """Return bytes a second of a copy, read and written, and operations a second of a square product."""
    x = torch.randn(size, size, device=device).to(dtype)
    into = torch.empty_like(x)
    copied = 2 * x.numel() * x.element_size() / timed(lambda: into.copy_(x), device)
    return copied, 2 * size**3 / timed(lambda: x @ x, device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="0.5B")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--k", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--token-budget", type=int, default=32768, help="padded tokens in one forward pass of training")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    device, dtype = pick_device(asked.device), getattr(torch, asked.dtype)
    model = random_llama(**SIZES[asked.size]).to(device, dtype)
    config = model.config
    words = config.vocab_size
    weights = sum(p.numel() for p in model.parameters())
    if not config.tie_word_embeddings:  # Embeddings are looked up, not multiplied.
        weights -= model.get_input_embeddings().weight.numel()
    token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim  # keys and values
    held = asked.prompts * (PROMPT + asked.k * asked.max_tokens / 2) * token  # on average
    bandwidth, matrix = limits(device, dtype, 8192 if device == "cuda" else 2048)
    draw = torch.Generator().manual_seed(0)
    prompts = [torch.randint(3, words, (PROMPT,), generator=draw).tolist() for _ in range(asked.prompts)]
    tokens = asked.prompts * asked.k * asked.max_tokens

    def sample(side: Callable[..., int]) -> Callable[[], int]:
        return lambda: side(model, (), prompts, asked.k, asked.max_tokens, 0)

    mine, peer = (timed(sample(side), device, asked.rounds) for side in (ours, theirs))
    rows = [[*p, *torch.randint(3, words, (asked.max_tokens,)).tolist()] for p in prompts for _ in range(asked.k)]
    lists = torch.arange(asked.prompts).repeat_interleave(asked.k)
    batch = as_lists(collate(rows, [PROMPT] * len(rows)), lists).to(device)
    learner = Learner({"policy": Policy(model)}, Optimiser(token_budget=asked.token_budget), 1000, {"policy": 1e-6})
    step = timed(lambda: learner.step(Term(batch, Sft())), device, asked.rounds)
    read = asked.prompts * PROMPT + tokens
    found = {
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "dtype": asked.dtype,
        "parameters": weights,
        "bandwidth_gb_s": bandwidth / 1e9,
        "matrix_tflop_s": matrix / 1e12,
        "sampling_tokens_s": tokens / mine,
        "generate_tokens_s": tokens / peer,
        "ratio": peer / mine,
        "sampling_share_of_bandwidth": (weights + held) * dtype.itemsize * asked.max_tokens / mine / bandwidth,
        "training_tokens_s": read / step,
        "training_share_of_matrix": 6 * weights * read / step / matrix,
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else None,
    }
    for name, value in found.items():
        print(f"{name:28} {value:,.3f}" if isinstance(value, float) else f"{name:28} {value}")
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
