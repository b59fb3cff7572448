r"""Adapters beside whole models: held-out reward against rank and learning rate, and the memory of four models.

    python benchmarks/lora.py FOLDER [--world demo] [--seed 0] [--ranks 1 4 16 64] [--times 1 3 10 30] [--json FILE]
    python benchmarks/lora.py FOLDER --world e2e --seed 7 --data ../shared/data
    python benchmarks/lora.py FOLDER --memory [--width 576 --layers 30]

The worlds are those of benchmarks/methods.py: one project with a policy and a reward model that are trained whole. Each
row is a run of `prefloop align --algorithm grpo` of equally many steps. Ranks are tried at ten times the learning rate
of the whole model, which is what prefloop takes by itself, and one rank at other multiples of it. What is compared is
the held-out reward of the step that the run keeps, and the KL that it costs; in the demo also the true quality, which
nothing learns from (judge).

--memory: policy, reference, reward model and critic of a random Llama, and a step of PPO on few tokens (so that what
activations take is small): the peak of resident memory of a process for each, less what it had before it loaded a
model, beside the bytes that are counted (weights once, and gradients and two moments of what learns).
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
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
from prefloop.models.load import load_causal
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
SHOWN = ("rank", "times", "reward", "kl", "judge", "cpu_s", "peak_mib")


# -- reward against rank and rate --------------------------------------------------------------------------------------


def run_of(root: Path, here: World, common: Sequence[str], rank: int, times: float) -> dict[str, Any]:
    """Align with adapters of a rank, or the whole model where it is 0, at a multiple of the whole model's rate."""
    asked = [*common, f"align.steps={here.steps}", f"align.rollout.prompts={here.completions // 4}",
             "align.rollout.k=4", "align.algorithm=grpo", f"align.lr={here.lr * times}"]  # fmt: skip
    asked += ["model.adapter=lora", f"model.lora.rank={rank}", "reward.freeze=0"] if rank else []

    def work() -> str:
        with Project.open(root, asked, quiet=True, new=True) as project:
            return str(align(project, 0).run)

    name, measured = apart(work)
    run = Run(root / "runs" / name)
    kept = next(line for line in run.metrics() if line["step"] == run.result["best_step"])
    found = {n: kept.get(f"eval_{n}") for n in ("reward", "kl", "judge", "length")}
    return {"rank": rank, "times": times, "kept": kept["step"], **found, **measured}


def compared(folder: Path, asked: argparse.Namespace) -> list[dict[str, Any]]:
    here = world(asked.world, False)
    common = overrides(here, asked.seed, False)
    root = folder / f"{asked.world}-{asked.seed}"
    make_world(asked.world, root, here, common, asked.seed, asked.data)
    wanted = [(0, 1.0), *((rank, TIMES) for rank in asked.ranks), *((RANK, t) for t in asked.times if t != TIMES)]
    rows = []
    for rank, times in wanted:
        note = root / f"lora-{rank}-{times:g}.json"
        if not note.is_file():
            record.write_atomic(note, json.dumps(run_of(root, here, common, rank, times)).encode())
        rows.append(json.loads(note.read_text()))
        show(rows[-1])
    return rows


def show(row: dict[str, Any]) -> None:
    print("  ".join(f"{n} {row[n]:.3g}" for n in SHOWN if row.get(n) is not None), flush=True)


# -- memory ------------------------------------------------------------------------------------------------------------


def peak() -> float:
    """Return the most resident memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def random_model(folder: Path, width: int, layers: int) -> Path:
    """Write a random Llama, and a reward model of it as an adapter, which is also a whole one."""
    base = folder / f"base-{width}-{layers}"
    if not (base / "reward").is_dir():
        words = train_tokenizer(["a small text, for a vocabulary that nobody reads"] * 4, 300)
        sizes = {"hidden_size": width, "intermediate_size": width * 8 // 3, "num_hidden_layers": layers}
        heads = {"num_attention_heads": width // 64, "num_key_value_heads": width // 64}
        ends = {"eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id, "bos_token_id": None}
        config = LlamaConfig(vocab_size=49152, tie_word_embeddings=True, **sizes, **heads, **ends)
        LlamaForCausalLM(config).save_pretrained(base)
        words.save_pretrained(base)
        judge, tokenization = new_reward_model(base, adapters(), 0)
        save_pretrained(judge.model, tokenization, base / "reward")
    return base


def adapters() -> Model:
    return Model(path="x", adapter="lora", lora=Lora(rank=RANK))


def one_step(base: Path, settings: Model) -> dict[str, Any]:
    """Load the four models of PPO, make one step, and return what that took."""
    torch.set_num_threads(1)
    began = peak()
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
    loaded = peak() - began
    training = Training(Optimiser(lr=1e-5), 1, {"policy": 1e-5, "critic": 1e-5})
    engine = make(models, tokenization, 0, training=training)
    rows = collate([[5 + n, 6, 7, 8, 9, 10, 11, 1] for n in range(4)], [3] * 4)
    rolled = RolloutBatch(**vars(rows), sampler_logp=torch.zeros(rows.ids.shape), reward=engine.forward("reward", rows),
                          group=torch.arange(4), ended=torch.ones(4, dtype=torch.bool))  # fmt: skip
    algorithm = make_algorithm("ppo", {})
    credited, _ = algorithm.credit(add_logprobs(rolled, engine, algorithm.needs))
    engine.step(*terms_of(credited, algorithm))
    once = {p.data_ptr(): p.nbytes for model in models.values() for p in model.parameters()}
    learns = sum(w.nbytes for role in ("policy", "critic") for w in engine.state().tensors[role].values())
    counted = (sum(once.values()) + 3 * learns) / 2**20
    return {"loaded_mib": loaded, "peak_mib": peak() - began, "counted_mib": counted, "learns_mib": learns / 2**20}


def memory(folder: Path, width: int, layers: int) -> list[dict[str, Any]]:
    base = apart(lambda: str(random_model(folder, width, layers)))[0]
    rows = []
    for settings in (Model(path="x"), adapters(), adapters().model_copy(update={"dtype": "bfloat16"})):
        found, measured = apart(lambda settings=settings: one_step(Path(base), settings))  # type: ignore[misc]
        rows.append({"adapter": settings.adapter, "dtype": settings.dtype, **found, "cpu_s": measured["cpu_s"]})
        print({n: round(v) if isinstance(v, float) else v for n, v in rows[-1].items()}, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--world", choices=["demo", "e2e"], default="demo")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--ranks", type=int, nargs="*", default=[1, 4, 16, 64])
    parser.add_argument("--times", type=float, nargs="*", default=[1, 3, 30])
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--width", type=int, default=576)
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    if asked.memory:
        rows = memory(asked.folder, asked.width, asked.layers)
    else:
        rows = compared(asked.folder, asked)
    if asked.json:
        record.write_atomic(asked.json, (json.dumps(rows, indent=1) + "\n").encode())


if __name__ == "__main__":
    sys.exit(main())
