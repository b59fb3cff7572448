"""Measures how much of the machine's matrix limit sampling and training reach, all by turns in one run.

    python benchmarks/limits.py                     # random Llamas of 5.4 M and 27 M parameters
    python benchmarks/limits.py --threads 1 --json limits.json

The limit is the best rate of float32 matrix products of 1024 x 1024 x 4096, by torch's own product or ours. Work is
counted as 2 operations a parameter and token forward (embeddings left out, the head counted), 6 with the backward pass;
attention, recomputation and everything else count as nothing, so that the share is what is left for the matrices.
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
from sampling import random_llama

from prefloop.algorithms.sft import Sft
from prefloop.batch import as_lists, collate
from prefloop.config_section import Optimiser
from prefloop.engine.base import Sampling, Term
from prefloop.engine.decoding import sampler
from prefloop.engine.learner import Learner
from prefloop.engine.process import cores, set_up
from prefloop.kernels.linear import product
from prefloop.models.policy import Policy

PROMPT, ANSWER = 24, 64  # tokens
SHAPES = {"5.4 M": (256, 4), "27 M": (512, 8)}  # width, layers


def limit() -> float:
    """Return operations a second."""
    x, weight = torch.randn(4096, 1024), torch.randn(1024, 1024)
    ready = product(weight, None, len(x))
    ways: list[Callable[[], Any]] = [lambda: torch.nn.functional.linear(x, weight), lambda: ready(x)]
    return max(2 * x.numel() * len(weight) / timed(way) for way in ways for _ in range(3))


def timed(work: Callable[[], Any]) -> float:
    before = time.perf_counter()
    work()
    return time.perf_counter() - before


def one(name: str, width: int, layers: int, asked: argparse.Namespace) -> dict[str, Any]:
    model = random_llama(width=width, layers=layers)
    parameters = sum(p.numel() for p in model.parameters()) - model.get_input_embeddings().weight.numel()
    draw = torch.Generator().manual_seed(0)
    count = asked.completions // asked.k
    prompts = [torch.randint(3, 4096, (PROMPT,), generator=draw).tolist() for _ in range(count)]
    rows = [prompt for prompt in prompts for _ in range(asked.k)]
    how = Sampling(ANSWER, batch=len(rows))
    drawn = sampler.generate(model, (), rows, range(len(rows)), how, 0)
    flat = collate([[*p, *s.ids] for p, s in zip(rows, drawn, strict=True)], [PROMPT] * len(rows))
    batch = as_lists(flat, torch.arange(count).repeat_interleave(asked.k))
    learner = Learner({"policy": Policy(model)}, Optimiser(), 1000, {"policy": 1e-6})
    sampled = 2 * parameters * (len(rows) * ANSWER + count * PROMPT)
    trained = 3 * sampled
    shares: dict[str, list[float]] = {"sampling": [], "training": []}
    limits = []
    for turn in range(asked.rounds + 1):
        best = limit()
        sampling = sampled / timed(lambda seed=turn: sampler.generate(model, (), rows, range(len(rows)), how, seed))
        training = trained / timed(lambda: learner.step(Term(batch, Sft())))
        best = max(best, limit())
        if turn:  # The first turn warms up.
            limits.append(best)
            shares["sampling"].append(sampling / best)
            shares["training"].append(training / best)
    row: dict[str, Any] = {"model": name, "parameters": parameters, "limit_gflops": statistics.median(limits) / 1e9}
    for what, found in shares.items():
        row[what] = {"median": statistics.median(found), "least": min(found), "most": max(found)}
    said = "  ".join(f"{w} {s['median']:.0%} ({s['least']:.0%} to {s['most']:.0%})" for w, s in list(row.items())[3:])
    print(f"{name:7} {len(rows)} x {ANSWER} tokens  limit {row['limit_gflops']:.0f} GFLOP/s  {said}", flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--completions", type=int, default=64)
    parser.add_argument("--k", type=int, default=8, help="completions a prompt")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--json", type=Path, help="write the figures here")
    asked = parser.parse_args()
    set_up(asked.threads, "cpu")
    rows = [one(name, *shape, asked) for name, shape in SHAPES.items()]
    if asked.json:
        asked.json.write_text(json.dumps({"threads": asked.threads, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
