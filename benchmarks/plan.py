"""Compares the memory that `prefloop plan` forecasts with the peak that the stage then needs, on random models.

    python benchmarks/plan.py                        # 10 M and 30 M parameters, about five minutes on two cores
    python benchmarks/plan.py --sizes 100M,300M      # up to 12 GB of memory, half an hour
    python benchmarks/plan.py --sizes "wide 7M" --stages "reward, lora;align grpo, lora"
    python benchmarks/plan.py --sizes phi,gemma2     # other families
    python benchmarks/plan.py --ranks 2 --sizes 30M  # two processes that share what learns

Each stage is a process of its own: `measured` is the peak of its resident memory, `forecast` what `prefloop plan` said
before, `off` how far that was from it. Two steps of each stage are done, since the optimiser's state comes with the
first one. On ranks the peak is that of the rank that holds most; the others' stand behind it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

# width, layers, heads, groups, inner, vocabulary; their output embedding is the input's, but in UNTIED
SIZES: dict[str, tuple[int, int, int, int, int, int]] = {
    "wide 7M": (128, 4, 4, 4, 344, 50000),
    "deep 6M": (128, 24, 4, 4, 344, 8192),
    "grouped 31M": (384, 12, 6, 1, 1024, 16384),
    "10M": (256, 8, 4, 4, 688, 8192),
    "30M": (384, 12, 6, 6, 1024, 16384),
    "100M": (768, 10, 12, 4, 2048, 32000),
    "135M": (576, 30, 9, 3, 1536, 49152),
    "300M": (1024, 18, 16, 8, 3584, 49152),
}
UNTIED = ("grouped 31M",)
# Other families, as wide and deep as the Llama of 30 M, by their model_type; Gemma's vocabularies are large.
LIKE = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "vocab_size": 16384}
GROUPED = {**LIKE, "num_key_value_heads": 3, "intermediate_size": 1024, "max_position_embeddings": 512}
GEMMA = {**GROUPED, "num_hidden_layers": 6, "head_dim": 64, "vocab_size": 60000}
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen3": {**GROUPED, "head_dim": 64, "tie_word_embeddings": True},
    "gpt2": {"n_embd": 384, "n_layer": 12, "n_head": 6, "vocab_size": 16384, "n_positions": 512},
    "gpt_neox": {**LIKE, "intermediate_size": 1536, "max_position_embeddings": 512},
    "gemma3_text": GEMMA,
    "gemma2": GEMMA,
    "granite": {**GROUPED, "logits_scaling": 8.0},
    "cohere": GROUPED,
    "olmo2": GROUPED,
    "phi": {**LIKE, "intermediate_size": 1536, "max_position_embeddings": 512},
    "phi3": GROUPED,
    "opt": {**LIKE, "ffn_dim": 1536, "word_embed_proj_dim": 384, "max_position_embeddings": 512},
    "bloom": {"hidden_size": 384, "n_layer": 12, "n_head": 6, "vocab_size": 16384},
    "stablelm": {
        "hidden_size": 256, "num_hidden_layers": 8, "num_attention_heads": 16, "num_key_value_heads": 16,
        "intermediate_size": 688, "vocab_size": 8192, "max_position_embeddings": 512, "tie_word_embeddings": True,
    },
}  # fmt: skip
EAGER = ("stablelm",)  # with attention in plain torch
K4 = ("--set", "align.rollout.k=4")
LORA, LOW = ("--set", "model.adapter=lora"), ("--set", "model.dtype=bfloat16")
IN_4BIT = (*LORA, "--set", "model.load_in_4bit=true")
DPO = ("--set", "align.algorithm=dpo", "--set", "align.lists=8", "--set", "align.passes=0.5")
LONG = ("--set", "align.rollout.k=8", "--set", "align.max_tokens=256")
STAGES: dict[str, list[str]] = {
    "sft": ["sft"],
    "sft, checkpointing": ["sft", "--set", "sft.gradient_checkpointing=true", "--set", "project.seed=1"],
    "sft, adamw_8bit": ["sft", "--set", "sft.optim=adamw_8bit", "--set", "project.seed=2"],
    "sft, lora": ["sft", "--set", "project.seed=3", *LORA],
    "sft, lora in 4 bits": ["sft", "--set", "project.seed=4", *IN_4BIT],
    "reward": ["reward"],
    "align ppo": ["align", "--set", "align.algorithm=ppo"],
    "align ppo, bfloat16": ["align", "--set", "align.algorithm=ppo", *LOW],
    "align grpo": ["align", "--set", "align.algorithm=grpo", *K4],
    "align grpo, long": ["align", "--set", "align.algorithm=grpo", *LONG],
    "align dpo": ["align", *DPO],
    "reward, lora": ["reward", *LORA],
    "align ppo, lora": ["align", "--set", "align.algorithm=ppo", *LORA],
    "align grpo, lora": ["align", "--set", "align.algorithm=grpo", *LORA, *K4],
    "align grpo, bfloat16 lora": ["align", "--set", "align.algorithm=grpo", *LORA, *K4, *LOW],
    "align grpo, lora in 4 bits": ["align", "--set", "align.algorithm=grpo", *IN_4BIT, *K4],
    "align dpo, lora": ["align", *DPO, *LORA],
}
TOML = """
[project]
device = "cpu"
threads = 1
[model]
path = "base"
[data]
heldout = 0.2
[sft]
batch = 16
epochs = 1
limit = 32
token_budget = 2048
[sample]
k = 4
prompts = 32
max_tokens = 32
[crowd]
scorer = "length"
[reward]
batch = 8
epochs = 1
token_budget = 2048
normalise_prompts = 8
[align]
steps = 2
max_tokens = 64
token_budget = 2048
[align.rollout]
prompts = 8
[align.evaluation]
eval_every = 2
eval_prompts = 8
"""


def make_project(root: Path, size: str) -> None:
    """Make a project with a random Llama, demonstrations, and lists that are ranked at random."""
    import random

    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

    from prefloop.models.scratch import train_tokenizer
    from prefloop.project.project import Project
    from prefloop.types import Completion, Demonstration, Item, Prompt, Ranking

    draw = random.Random(0)
    vocabulary = ["cat", "dog", "sat", "mat", "ran", "park", "the", "on", "and", "looked", "small", "green"]

    def text(n: int) -> str:
        return " ".join(draw.choice(vocabulary) for _ in range(n))

    tokenizer = train_tokenizer([text(50) for _ in range(50)], 400)
    ends = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    if size in FAMILIES:
        config = AutoConfig.for_model(size, **FAMILIES[size], **ends)
    else:
        width, layers, heads, groups, inner, words = SIZES[size]
        config = LlamaConfig(
            vocab_size=words, hidden_size=width, intermediate_size=inner, num_hidden_layers=layers,
            num_attention_heads=heads, num_key_value_heads=groups, max_position_embeddings=512,
            tie_word_embeddings=size not in UNTIED, **ends,
        )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(root / "base")
    if size in EAGER:
        written = root / "base" / "config.json"
        written.write_text(json.dumps(json.loads(written.read_text()) | {"attn_implementation": "eager"}))
    tokenizer.save_pretrained(root / "base")
    (root / "prefloop.toml").write_text(TOML)
    records: list[Any] = []
    for n in range(48):
        prompt = Prompt(f"{n} {text(12)}")
        records.append(Demonstration(prompt, text(60)))
        completions = tuple(Completion(f"i{n}:c{k}", text(60)) for k in range(4))
        order = draw.sample([c.id for c in completions], 4)
        ranking = Ranking(f"i{n}", "ann", "quality", tuple((id,) for id in order))
        records.append(Item(f"i{n}", prompt, completions, (ranking,)))
    with Project.open(root, quiet=True) as project:
        project.store.add(records)


def command(root: Path, *arguments: str) -> list[str]:
    return [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "prefloop",
        arguments[0],
        "-C",
        str(root),
        "-q",
        "--json",
        *arguments[1:],
    ]


def measured(root: Path, arguments: list[str]) -> tuple[list[float], str]:
    """Return the peak of a stage's resident memory in bytes, of each rank, and what it said if it failed."""
    log, peaks = root / "log", dict[int, float]()
    child = os.fork()
    if not child:
        with log.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[1] / "src")
        os.execv(sys.executable, command(root, *arguments))
    while not (ended := os.wait4(child, os.WNOHANG))[0]:
        peaks |= dict(peaks_of_ranks(child))
        time.sleep(0.05)
    _, status, usage = ended
    found = [peak for _, peak in sorted(peaks.items())] or [usage.ru_maxrss * 1024.0]
    return found, log.read_text()[-500:] if status else ""


def peaks_of_ranks(parent: int) -> Iterator[tuple[int, float]]:
    """Yield the rank and the peak in bytes of each process that torchrun has started."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            lines = (line.split() for line in (folder / "status").read_text().splitlines())
            said = {name: value for name, value, *_ in (line for line in lines if len(line) > 1)}
            if int(said["PPid:"]) == parent:
                set = (folder / "environ").read_bytes().split(b"\0")
                rank = next(one for one in set if one.startswith(b"RANK="))
                yield int(rank[len("RANK=") :]), int(said["VmHWM:"]) * 1024.0
        except (OSError, KeyError, StopIteration):  # It has just begun or ended, or is no rank.
            continue


def forecast(root: Path, arguments: list[str], ranks: int) -> dict[str, Any]:
    """Return what `prefloop plan` says of a stage, in a process of its own as the stage itself is."""
    import subprocess

    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1] / "src")}
    asked = command(root, "plan", arguments[0], "--no-measure", f"--devices={ranks}", *arguments[1:])
    said = subprocess.run(asked, capture_output=True, text=True, env=environment)
    found: dict[str, Any] = json.loads(said.stdout.strip().splitlines()[-1])
    if "error" in found:
        raise SystemExit(found["error"]["message"])
    return found


def rows(size: str, stages: list[str], changes: list[str], ranks: int) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make = os.fork()  # What makes the model does not stay in this process.
        if not make:
            make_project(root, size)
            os._exit(0)
        if os.waitpid(make, 0)[1]:
            raise SystemExit("the project could not be made")
        for stage in stages:
            asked = [*STAGES[stage], *(part for change in changes for part in ("--set", change))]
            planned = forecast(root, asked, ranks)
            peaks, failed = measured(root, [*asked, "--set", f"project.ranks={ranks}"])
            peak = max(peaks)
            if failed:
                raise SystemExit(f"{size} {stage}: {failed}")
            (one,) = planned["stages"]
            phase = max(one["phases"], key=lambda p: sum(part["bytes"] for part in p["parts"]))
            yield {
                "size": size,
                "stage": stage,
                "parameters": planned["parameters"],
                "forecast": one["peak"],
                "measured": peak,
                "ranks": peaks,
                "off": one["peak"] / peak - 1,
                "phase": phase["phase"],
            }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="10M,30M")
    parser.add_argument("--stages", default=";".join(STAGES))
    parser.add_argument("--ranks", type=int, default=1, help="processes that share the models that learn")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="another setting of all stages")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    print(f"{'size':>11} {'stage':<25} {'forecast':>10} {'measured':>10} {'off':>7}  phase that holds most")
    worst = 0.0
    for size in asked.sizes.split(","):
        for row in rows(size, asked.stages.split(";"), asked.set, asked.ranks):
            worst = max(worst, abs(row["off"]))
            sizes = f"{row['forecast'] / 1e9:>7.2f} GB {row['measured'] / 1e9:>7.2f} GB {row['off']:>+7.1%}"
            each = "".join(f", {peak / 1e9:.2f} GB" for peak in row["ranks"]) if asked.ranks > 1 else ""
            print(f"{row['size']:>11} {row['stage']:<25} {sizes}  {row['phase']}{each}", flush=True)
            if asked.json:
                print(json.dumps(row), flush=True)
    print(f"furthest off: {worst:.1%}")


if __name__ == "__main__":
    main()
