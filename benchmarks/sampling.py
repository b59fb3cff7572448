"""Compares prefloop's sampler with transformers' `generate` and its continuous batching, on the same weights.

    python benchmarks/sampling.py                   # the demo model (natural lengths), a random Llama (fixed)
    python benchmarks/sampling.py --model DIR --prompts FILE    # a Hugging Face folder, a file as for import

K completions of each prompt are drawn at temperature 1. All samplers run in this process, A B C A B C, after a warm-up
of each. It prints medians over the rounds with least and most, and the ratios of tokens a second. Tokens are those up
to and with the end token.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GenerationConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    LlamaForCausalLM,
)

from prefloop import exchange
from prefloop.engine.base import Sampling
from prefloop.engine.decoding import sampler
from prefloop.engine.process import cores, set_up
from prefloop.models.load import load_causal
from prefloop.types import Prompt

DEMO = Path(__file__).resolve().parents[1] / "src" / "prefloop" / "demo" / "model"


def ours(model: Any, stop: Sequence[int], prompts: Sequence[Sequence[int]], k: int, limit: int, seed: int) -> int:
    """Return how many tokens prefloop drew."""
    rows = [ids for ids in prompts for _ in range(k)]
    drawn = sampler.generate(model, stop, rows, range(len(rows)), Sampling(limit, batch=len(rows)), seed)
    return sum(len(one.ids) for one in drawn)


def theirs(model: Any, stop: Sequence[int], prompts: Sequence[Sequence[int]], k: int, limit: int, seed: int) -> int:
    """Return the same for `generate`: prompts are padded on the left, with K sequences of each."""
    torch.manual_seed(seed)
    longest = max(map(len, prompts))
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for n, prompt in enumerate(prompts):
        ids[n, longest - len(prompt) :] = torch.tensor(prompt)
        mask[n, longest - len(prompt) :] = 1
    with torch.inference_mode():
        out = model.generate(
            ids.to(model.device),
            attention_mask=mask.to(model.device),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            num_return_sequences=k,
            max_new_tokens=limit,
            eos_token_id=list(stop) or None,
            pad_token_id=0,
        )
    answers = out[:, longest:].cpu()
    ended = torch.isin(answers, torch.tensor(list(stop), dtype=torch.long))
    before = (ended.cumsum(1) - ended.long()) == 0  # They go up to and with the first end token.
    return int(before.sum())


def continuous(model: Any, stop: Sequence[int], prompts: Sequence[Sequence[int]], k: int, limit: int, seed: int) -> int:
    """Return the same for `generate_batch`, where rows that end leave the batch."""
    torch.manual_seed(seed)
    drawing = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": limit}
    how = GenerationConfig(**drawing, eos_token_id=list(stop) or -1, pad_token_id=0)
    out = model.generate_batch([list(ids) for ids in prompts for _ in range(k)], generation_config=how)
    return sum(len(one.generated_tokens) for one in out.values())


def compare(
    name: str, model: Any, stop: Sequence[int], prompts: Sequence[Sequence[int]], k: int, limit: int, rounds: int
) -> dict[str, Any]:
    sides: list[tuple[str, Callable[..., int]]] = [
        ("prefloop", ours),
        ("generate", theirs),
        ("continuous", continuous),
    ]
    speed: dict[str, list[float]] = {side: [] for side, _ in sides}
    for turn in range(rounds + 1):
        for side, sample in sides:
            before = time.perf_counter()
            tokens = sample(model, stop, prompts, k, limit, turn)
            if turn:  # The first turn warms up.
                speed[side].append(tokens / (time.perf_counter() - before))
    row: dict[str, Any] = {"work": name, "completions": len(prompts) * k, "max_tokens": limit}
    for side, values in speed.items():
        row[side] = {"median": statistics.median(values), "least": min(values), "most": max(values)}
    for peer in ("generate", "continuous"):
        pairs = zip(speed["prefloop"], speed[peer], strict=True)
        row[f"ratio to {peer}"] = statistics.median(a / b for a, b in pairs)
    shown = [f"{side} {row[side]['median']:,.0f} ({min(v):,.0f} to {max(v):,.0f})" for side, v in speed.items()]
    ratios = f"{row['ratio to generate']:.2f}, {row['ratio to continuous']:.2f}"
    print(f"{name:26}  {row['completions']} x {limit}  {'  '.join(shown)} tokens/s  ratios {ratios}", flush=True)
    return row


# The last two are as large, and as wide in every part, as Qwen2.5's models of these names.
SIZES: dict[str, dict[str, Any]] = {
    "5.4M": {},
    "0.5B": {"vocabulary": 151_936, "width": 896, "layers": 24, "heads": 14, "groups": 2, "inner": 4864, "tied": True},
    "1.5B": {"vocabulary": 151_936, "width": 1536, "layers": 28, "heads": 12, "groups": 2, "inner": 8960, "tied": True},
}


def random_llama(
    vocabulary: int = 4096,
    pad: int | None = None,
    end: int | None = None,
    *,
    width: int = 256,
    layers: int = 4,
    heads: int = 8,
    groups: int = 0,
    inner: int = 0,
    tied: bool = False,
) -> Any:
    """Return a random Llama, of 5.4 M parameters by default."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        pad_token_id=pad,
        eos_token_id=end,
        bos_token_id=None,
        hidden_size=width,
        intermediate_size=inner or width * 43 // 16,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups or heads,
        tie_word_embeddings=tied,
        max_position_embeddings=1024,
    )
    return LlamaForCausalLM(config).eval()


SHAPE = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 8, "max_position_embeddings": 1024}
# With 4,096 words they have 4.0, 5.3 and 4.5 M parameters.
FAMILIES: dict[str, tuple[Any, dict[str, Any]]] = {
    "Gemma 3": (
        Gemma3TextConfig,
        {
            "intermediate_size": 688,
            "num_key_value_heads": 4,
            "head_dim": 32,
            "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
            "sliding_window": 512,
        },
    ),
    "GPT-NeoX": (GPTNeoXConfig, {"intermediate_size": 1024}),
    "GPT-2": (GPT2Config, {}),
}


def random_other(vocabulary: int, pad: int | None, end: int | None, *, family: str) -> Any:
    """Return a model of another family, about as large as the smallest Llama."""
    kind, shape = FAMILIES[family]
    ends = {"pad_token_id": pad, "eos_token_id": end, "bos_token_id": None}
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(kind(vocab_size=vocabulary, **SHAPE, **shape, **ends)).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a Hugging Face folder instead of the demo's model")
    parser.add_argument("--prompts", type=Path, help="a file of prompts for it")
    parser.add_argument("--count", type=int, default=8, help="prompts")
    parser.add_argument("--k", type=int, default=8, help="completions of each")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--json", type=Path, help="write the figures here")
    asked = parser.parse_args()
    set_up(asked.threads, "cpu")
    model, tokenization = load_causal(asked.model or DEMO)
    if asked.prompts:
        texts = [row for row in exchange.read(asked.prompts) if isinstance(row, Prompt)][: asked.count]
    else:
        from prefloop.demo.scenario import prompts as scenario

        texts = scenario(asked.count, 0)
    ids = [tokenization.encode_prompt(prompt) for prompt in texts]
    rows = [compare("natural lengths", model, tokenization.stop_ids, ids, asked.k, asked.max_tokens, asked.rounds)]
    llama = random_llama()
    draw = torch.Generator().manual_seed(1)
    fixed = [torch.randint(3, 4096, (24,), generator=draw).tolist() for _ in range(asked.count)]
    rows.append(compare("random Llama, no end token", llama, (), fixed, asked.k, asked.max_tokens, asked.rounds))
    if asked.json:
        asked.json.write_text(json.dumps({"threads": asked.threads, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
