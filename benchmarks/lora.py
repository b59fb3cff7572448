r"""Adapters beside whole models: held-out reward against rank and learning rate, and the memory of four models.

    python benchmarks/lora.py FOLDER [--world demo] [--seed 0] [--ranks 1 4 16 64] [--times 1 3 10 30] [--json FILE]
    python benchmarks/lora.py FOLDER --world e2e --seed 7 --data ../shared/data
    python benchmarks/lora.py FOLDER --ranks 16 --times --in-4bit
    python benchmarks/lora.py FOLDER --memory [--width 576 --layers 30] [--in-4bit]
    python benchmarks/lora.py FOLDER --memory --device cuda --width 4096 --layers 32 --vocabulary 128256 \
        --dtypes bfloat16 --rows 64 --length 512                # 7 B on a GPU

The worlds are those of benchmarks/methods.py: one project with a policy and a reward model that are trained whole. Each
row is a run of `prefloop align --algorithm grpo` of equally many steps. Ranks are tried at ten times the learning rate
of the whole model, which is what prefloop takes by itself, and one rank at other multiples of it. What is compared is
the held-out reward of the step that the run keeps, and the KL that it costs; in the demo also the true quality, which
nothing learns from (judge).

--memory: policy, reference, reward model and critic of a random Llama, and two steps of PPO, of which the second is
timed. By default they are on few tokens, so that what activations take is small. The peak is that of resident memory,
less what the process had before it loaded a model, and on a GPU that of torch's allocator. Beside it are the bytes that
are counted (weights once, and gradients and two moments of what learns), and `held`: what is there between two steps.
On a GPU there is a row with `[align] frozen_offload`, too. What does not fit is named, and the others go on.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from methods import World, apart, make_world, overrides, world
from transformers import LlamaConfig, LlamaForCausalLM

from prefloop import record
from prefloop.algorithms.registry import make as make_algorithm
from prefloop.batch import RolloutBatch, collate
from prefloop.config import Lora, Model
from prefloop.config_section import Optimiser
from prefloop.engine import Training, make
from prefloop.engine.base import terms_of
from prefloop.engine.placement import Placement
from prefloop.models.load import DTYPES, load_causal
from prefloop.models.policy import Policy
from prefloop.models.reward import load_reward_model, new_critic, new_reward_model
from prefloop.models.save import save_pretrained
from prefloop.models.scratch import train_tokenizer
from prefloop.models.trunk import Trunks
from prefloop.project.project import Project, derive
from prefloop.record import Run
from prefloop.stages.align import align
from prefloop.training.rollout import add_logprobs

RANK, TIMES = 16, 10.0
SHOWN = ("rank", "times", "trunk_bits", "reward", "kl", "judge", "cpu_s", "peak_mib")


# -- reward against rank and rate --------------------------------------------------------------------------------------


def run_of(
    root: Path, here: World, common: Sequence[str], rank: int, times: float, in_4bit: bool = False
) -> dict[str, Any]:
    """Align with adapters of a rank, or the whole model where it is 0, at a multiple of the whole model's rate."""
    asked = [*common, f"align.steps={here.steps}", f"align.rollout.prompts={here.completions // 4}",
             "align.rollout.k=4", "align.algorithm=grpo", f"align.lr={here.lr * times}"]  # fmt: skip
    asked += ["model.adapter=lora", f"model.lora.rank={rank}", "reward.freeze=0"] if rank else []
    asked += ["model.load_in_4bit=true"] if in_4bit else []

    def work() -> str:
        with Project.open(root, asked, quiet=True, new=True) as project:
            return str(align(project, 0).run)

    name, measured = apart(work)
    run = Run(root / "runs" / name)
    kept = next(line for line in run.metrics() if line["step"] == run.result["best_step"])
    found = {n: kept.get(f"eval_{n}") for n in ("reward", "kl", "judge", "length")}
    bits = 4 if in_4bit else 32
    return {"rank": rank, "times": times, "trunk_bits": bits, "kept": kept["step"], **found, **measured}


def compared(folder: Path, asked: argparse.Namespace) -> list[dict[str, Any]]:
    here = world(asked.world, False)
    common = overrides(here, asked.seed, False)
    root = folder / f"{asked.world}-{asked.seed}"
    make_world(asked.world, root, here, common, asked.seed, asked.data)
    wanted = [(0, 1.0), *((rank, TIMES) for rank in asked.ranks), *((RANK, t) for t in asked.times if t != TIMES)]
    rows = []
    for rank, times, in_4bit in [*((*pair, False) for pair in wanted), *[(RANK, TIMES, True)] * asked.in_4bit]:
        note = root / f"lora-{rank}-{times:g}{'-4bit' * in_4bit}.json"
        if not note.is_file():
            record.write_atomic(note, json.dumps(run_of(root, here, common, rank, times, in_4bit)).encode())
        rows.append(json.loads(note.read_text()))
        show(rows[-1])
    return rows


def show(row: dict[str, Any]) -> None:
    print("  ".join(f"{n} {row[n]:.3g}" for n in SHOWN if row.get(n) is not None), flush=True)


# -- memory ------------------------------------------------------------------------------------------------------------


def peak(device: str) -> float:
    """Return the most memory of this process so far, in MiB: what is resident, or on a GPU what torch took."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def random_model(asked: argparse.Namespace) -> Path:
    """Write a random Llama, and a reward model of it as an adapter, which is also a whole one."""
    width, layers, dtype = asked.width, asked.layers, asked.dtypes[0]
    base: Path = asked.folder / f"base-{width}-{layers}-{asked.vocabulary}-{dtype}"
    if not (base / "reward").is_dir():
        words = train_tokenizer(["a small text, for a vocabulary that nobody reads"] * 4, 300)
        sizes = {"hidden_size": width, "intermediate_size": width * 8 // 3, "num_hidden_layers": layers}
        heads = {"num_attention_heads": width // 64, "num_key_value_heads": width // 64}
        ends = {"eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id, "bos_token_id": None}
        config = LlamaConfig(vocab_size=asked.vocabulary, tie_word_embeddings=True, **sizes, **heads, **ends)
        torch.set_default_dtype(getattr(torch, dtype))  # A model of 7 B is never there in float32.
        with torch.device(asked.device):
            model = LlamaForCausalLM(config)
        torch.set_default_dtype(torch.float32)
        model.save_pretrained(base)
        words.save_pretrained(base)
        judge, tokenization = new_reward_model(base, adapters(dtype), 0)
        save_pretrained(judge.model, tokenization, base / "reward")
    return base


def adapters(dtype: str) -> Model:
    return Model.model_validate({"path": "x", "adapter": "lora", "lora": Lora(rank=RANK), "dtype": dtype})


def two_steps(base: Path, settings: Model, offload: bool, asked: argparse.Namespace) -> dict[str, Any]:
    """Load the four models of PPO, make two steps, and return what they took."""
    torch.set_num_threads(1)
    device = asked.device
    began = peak(device)
    if settings.adapter == "lora":
        trunks = Trunks()
        policy, tokenization = trunks.causal(base, settings, derive(0, "adapter"))
        reference = trunks.causal(base, settings)[0]
    else:
        trunks = None
        policy, tokenization = load_causal(base, settings)
        reference = load_causal(base, settings)[0]
    judge, _ = load_reward_model(base / "reward", settings, trunks)
    critic, _ = new_critic(base / "reward", settings, 0, trunks)
    models: Any = {"policy": Policy(policy), "reference": Policy(reference), "critic": critic, "reward": judge}
    for role in ("reference", "reward"):
        models[role].requires_grad_(False)
    loaded = peak(device) - began
    optimiser = Optimiser(lr=1e-5, gradient_checkpointing=asked.checkpointing)
    training = Training(optimiser, 2, {"policy": 1e-5, "critic": 1e-5})
    engine = make(models, tokenization, 0, Placement(device, offload=offload), training)
    algorithm, prompt = make_algorithm("ppo", {}), asked.length // 2
    draw = torch.Generator().manual_seed(0)
    texts = torch.randint(5, 250, (asked.rows, asked.length), generator=draw).tolist()
    rows = collate(texts, [prompt] * asked.rows)
    group, ended = torch.arange(asked.rows), torch.ones(asked.rows, dtype=torch.bool)

    def step() -> float:
        began = time.perf_counter()
        reward, logp = engine.forward("reward", rows), torch.zeros(rows.ids.shape)
        rolled = RolloutBatch(**vars(rows), sampler_logp=logp, reward=reward, group=group, ended=ended)
        credited, _ = algorithm.credit(add_logprobs(rolled, engine, algorithm.needs))
        engine.step(*terms_of(credited, algorithm))
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    step()
    held = torch.cuda.memory_allocated() / 2**20 if device == "cuda" else None
    seconds = step()
    once = {p.data_ptr(): p.nbytes for model in models.values() for p in model.parameters()}
    learns = sum(w.nbytes for role in ("policy", "critic") for w in engine.state().tensors[role].values())
    counted = (sum(once.values()) + 3 * learns) / 2**20
    taken = {"loaded_mib": loaded, "held_mib": held, "peak_mib": peak(device) - began, "counted_mib": counted}
    return {**taken, "learns_mib": learns / 2**20, "step_s": seconds}


def memory(asked: argparse.Namespace) -> list[dict[str, Any]]:
    base = apart(lambda: str(random_model(asked)))[0]
    first = Model.model_validate({"path": "x", "dtype": asked.dtypes[0]})
    wanted = [(first, False), *([(first, True)] if asked.device == "cuda" else [])]
    rows = []
    for bits in (False, *([True] if asked.in_4bit else [])):
        wanted += [(adapters(dtype).model_copy(update={"load_in_4bit": bits}), False) for dtype in asked.dtypes]
    for settings, offload in wanted:
        row: dict[str, Any] = {"adapter": settings.adapter, "dtype": settings.dtype, "offload": offload}
        row["load_in_4bit"] = settings.load_in_4bit
        try:
            row |= apart(lambda: two_steps(Path(base), settings, offload, asked))[0]  # noqa: B023 -- done at once
        except RuntimeError as error:
            row["error"] = str(error)[:200]
        rows.append(row)
        print({n: round(v, 2 if n == "step_s" else None) if isinstance(v, float) else v for n, v in row.items()})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--world", choices=["demo", "e2e"], default="demo")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--ranks", type=int, nargs="*", default=[1, 4, 16, 64])
    parser.add_argument("--times", type=float, nargs="*", default=[1, 3, 30])
    parser.add_argument("--in-4bit", action="store_true", help="adapters beside a trunk in 4 bits, too")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--width", type=int, default=576)
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--vocabulary", type=int, default=49152)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), default=["float32", "bfloat16"],
                        help="of the trunk under adapters, a row each; whole models have the first")  # fmt: skip
    parser.add_argument("--rows", type=int, default=4, help="of a step of PPO with --memory")
    parser.add_argument("--length", type=int, default=8, help="tokens of a row")
    parser.add_argument("--checkpointing", action="store_true", help="gradient_checkpointing = true")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    if asked.memory:
        rows = memory(asked)
    else:
        rows = compared(asked.folder, asked)
    if asked.json:
        record.write_atomic(asked.json, (json.dumps(rows, indent=1) + "\n").encode())


if __name__ == "__main__":
    sys.exit(main())
