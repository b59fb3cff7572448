"""prefloop against TRL: the same weights, data and settings, in turns, each side in an environment of its own.

    python benchmarks/vs_trl.py online --project e2e      # GRPO and RLOO steps; and on a random Llama of 5.4 M
    python benchmarks/vs_trl.py ppo    --project e2e      # against TRL 1.12, the last with PPO; K completions, and one
    python benchmarks/vs_trl.py reward --project e2e      # lists of rankings, against all their pairs
    python benchmarks/vs_trl.py reward --project e2e --data hh.jsonl.gz --max-length 256     # rankings of a file
    python benchmarks/vs_trl.py dpo    --project e2e      # the same rankings, as pairs for TRL
    python benchmarks/vs_trl.py sft    --project e2e
    python benchmarks/vs_trl.py families                  # GRPO, PPO on a random Gemma 3, GPT-NeoX, GPT-2
    python benchmarks/vs_trl.py memory                    # peak of a GRPO step, 32k and 151k words, 512 tokens
    python benchmarks/vs_trl.py large --size 0.5B --device cuda --dtype bfloat16 --max-tokens 256   # GRPO, PPO on a GPU

--project: one that has been through `sft` and `reward`; its policy, reward model, prompts and rankings are used. TRL's
environment is made with pip under --peers the first time: minutes, 1.5 GB. Each side runs --rounds times, by turns, in
new processes; the first step of a run is left out. Seconds are medians with least and most; the ratio is the median
over the rounds of their seconds to ours for the same samples.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from sampling import FAMILIES, SIZES, random_llama, random_other

from prefloop import exchange
from prefloop.config import Model
from prefloop.engine.process import cores
from prefloop.labels.ranking import comparisons
from prefloop.models.load import load_causal
from prefloop.models.reward import new_reward_model
from prefloop.models.save import save_pretrained
from prefloop.models.scratch import train_tokenizer
from prefloop.models.tokenization import Tokenization, make_tokenization
from prefloop.project.project import Project, load_policy
from prefloop.rewards.sequence import encode
from prefloop.types import Demonstration, Item, Prompt

HERE = Path(__file__).resolve().parent
GENERAL, LAST_WITH_PPO = "1.16.0", "1.12.0"
RANDOM = ("families", "memory", "large")  # These need no project.
Work = dict[str, Any]


# -- what both sides are given -----------------------------------------------------------------------------------------


def online(folder: Path, tokenization: Tokenization, prompts: list[Prompt], work: Work) -> Work:
    """Return as many prompts as the steps need, to import and in the chat template: both sides go through the same."""
    prompts = prompts[: work["prompts"] * work["steps"]]
    exchange.write_prompts(prompts, folder / "data.jsonl")
    (folder / "peer.json").write_text(
        json.dumps([tokenization.tokenizer.decode(tokenization.encode_prompt(p)) for p in prompts])
    )
    return work


def pairs(item: Item, tokenization: Tokenization) -> Iterator[dict[str, str]]:
    """Yield every two completions that somebody told apart, once for each order, as TRL reads them.

    They come once, however many people said so: repeating them would only cost the other side time. TRL appends the end
    token.
    """
    texts = {c.id: c for c in item.completions}
    prompt = tokenization.tokenizer.decode(tokenization.encode_prompt(item.prompt))

    def text(id: str) -> str:
        ids, cut = encode(tokenization, item.prompt, texts[id])
        answer: str = tokenization.tokenizer.decode(ids[cut:-1])
        return answer

    told = {(pair.better, pair.worse) for r in item.rankings for pair in comparisons(r) if pair.p == 1.0}
    for better, worse in sorted(told):
        yield {"prompt": prompt, "chosen": text(better), "rejected": text(worse)}


def ranked(folder: Path, tokenization: Tokenization, items: Iterable[Item], work: Work, lists: int) -> Work:
    """Return the first lists that somebody put in an order.

    Our step takes `batch` of them, theirs the pairs of as many.
    """
    kept: list[Item] = []
    rows: list[dict[str, str]] = []
    for item in items:
        if found := list(pairs(item, tokenization)):
            kept.append(item)
            rows += found
        if len(kept) == lists:
            break
    exchange.write_rankings(kept, folder / "data.jsonl")
    (folder / "peer.json").write_text(json.dumps(rows))
    each = len(rows) / len(kept)
    return work | {"pairs_a_list": each, "peer_batch": max(1, round(work["batch"] * each))}


def demonstrated(folder: Path, tokenization: Tokenization, shown: list[Demonstration], work: Work) -> Work:
    exchange.write_demonstrations(shown, folder / "data.jsonl")
    rows = [
        {"prompt": tokenization.tokenizer.decode(tokenization.encode_prompt(d.prompt)), "completion": d.text}
        for d in shown
    ]
    (folder / "peer.json").write_text(json.dumps(rows))
    return work | {"peer_batch": work["batch"]}


def random_models(
    folder: Path, vocabulary: int = 4096, make: Callable[..., Any] = random_llama, **shape: Any
) -> tuple[Path, Path, list[Prompt]]:
    """Return a random model (a Llama of 5.4 M), a reward model on it, and a tokenizer of this repository's texts."""
    texts = [path.read_text() for path in sorted((HERE.parent / "docs").rglob("*.md"))]
    tokenizer = train_tokenizer(texts, min(vocabulary, 4096))
    model = make(vocabulary, tokenizer.pad_token_id, tokenizer.eos_token_id, **shape)
    save_pretrained(model, make_tokenization(tokenizer, model), folder / "policy")
    reward, tokenization = new_reward_model(folder / "policy", Model(), seed=1)
    reward.set_normalisation(0.0, 1.0)
    save_pretrained(reward.model, tokenization, folder / "reward")
    lines = [line for text in texts for line in text.splitlines() if 60 <= len(line) <= 100]
    return folder / "policy", folder / "reward", [Prompt(line) for line in lines]


# -- running them ------------------------------------------------------------------------------------------------------


def peer(folder: Path, version: str) -> Path:
    """Return the interpreter of an environment with this TRL."""
    home = folder.resolve() / f"trl-{version}"
    if not (home / "bin" / "python").exists():
        print(f"making {home}: some minutes", file=sys.stderr)
        venv.create(home, with_pip=True)
        for packages in (["torch==2.13.0"], [f"trl=={version}", "transformers==5.23.0"]):
            subprocess.run([home / "bin" / "python", "-m", "pip", "install", "-q", *packages], check=True)
    return home / "bin" / "python"


def once(python: Path | str, script: str, folder: Path) -> dict[str, Any]:
    done = subprocess.run([python, HERE / "sides" / script, folder], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{script} failed:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def compare(name: str, folder: Path, work: Work, asked: argparse.Namespace, version: str = GENERAL) -> dict[str, Any]:
    (folder / "work.json").write_text(json.dumps(work))
    python = peer(asked.peers, version)
    sides: dict[str, list[dict[str, Any]]] = {"prefloop": [], "trl": []}
    for _ in range(asked.rounds):
        sides["prefloop"].append(once(sys.executable, "prefloop_side.py", folder))
        sides["trl"].append(once(python, "trl_side.py", folder))
    row: dict[str, Any] = {"work": name, "peer": f"TRL {version}"}
    for side, runs in sides.items():
        steps = [s for run in runs for s in run["seconds"][1:]]
        row[side] = {
            "seconds": {"median": statistics.median(steps), "least": min(steps), "most": max(steps)},
            "peak_mb": statistics.median(run["peak_mb"] for run in runs),
            "length": statistics.mean([x for run in runs for x in run["length"]] or [0.0]),
            "parts": {
                part: statistics.median(v for r in runs for v in r["parts"][part][1:])
                for part in runs[0].get("parts", {})
            },
        }
    medians = [[statistics.median(run["seconds"][1:]) for run in runs] for runs in sides.values()]
    row["ratios"] = sorted(theirs / ours for ours, theirs in zip(*medians, strict=True))
    row["ratio"] = statistics.median(row["ratios"])
    row["memory_ratio"] = row["prefloop"]["peak_mb"] / row["trl"]["peak_mb"]
    show(row)
    return row


def show(row: dict[str, Any]) -> None:
    cells = []
    for side in ("prefloop", "trl"):
        s, length = row[side]["seconds"], row[side]["length"]
        tokens = f", {length:.0f} tokens" if length else ""
        cells.append(
            f"{side} {s['median']:.2f} s ({s['least']:.2f} to {s['most']:.2f}{tokens}, {row[side]['peak_mb']:,.0f} MB)"
        )
    spread = f"{row['ratios'][0]:.2f} to {row['ratios'][-1]:.2f}"
    print(f"{row['work']:34} {'  '.join(cells)}  ratio {row['ratio']:.2f} ({spread})", flush=True)


# -- what is measured --------------------------------------------------------------------------------------------------


def on_random_models(asked: argparse.Namespace, folder: Path, work: Work, alone: Work) -> Iterator[dict[str, Any]]:
    """Yield GRPO, and PPO but where memory is measured."""
    kinds: dict[str, dict[str, Any]] = {
        "families": {f"random {family}": {"make": random_other, "family": family} for family in FAMILIES},
        "memory": {f"{words:,} words, T = 512": {"vocabulary": words} for words in (32_000, 151_936)},
        "large": {f"random Llama of {asked.size}": SIZES[asked.size]},
    }
    for number, (name, shape) in enumerate(kinds[asked.what].items()):
        here = folder / str(number)
        policy, reward, prompts = random_models(here, **shape)
        _, tokenization = load_causal(policy)
        more = work | {"policy": str(policy), "reward": str(reward)}
        if asked.what == "memory":
            more |= {"prompts": 1, "max_tokens": 512 - 32}
        yield compare(f"GRPO, {name}", here, online(here, tokenization, prompts, more | {"kind": "grpo"}), asked)
        if asked.what != "memory":
            more |= {"kind": "ppo"} | (alone if asked.what == "large" else {})
            yield compare(f"PPO, {name}", here, online(here, tokenization, prompts, more), asked, LAST_WITH_PPO)


def measure(asked: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    what = asked.what
    work: Work = {
        "threads": asked.threads,
        "steps": asked.steps + 1,
        "k": asked.k,
        "prompts": asked.completions // asked.k,
        "max_tokens": asked.max_tokens,
        "max_length": asked.max_length,
        "batch": asked.batch,
        "data": "data.jsonl",
        "device": asked.device,
        "dtype": asked.dtype,
        "token_budget": asked.token_budget,
    }
    alone: Work = {"k": 1, "prompts": asked.completions}  # No completion shares its prompt.
    if what in RANDOM:
        yield from on_random_models(asked, folder, work, alone)
        return
    with Project.open(asked.project, quiet=True) as project:
        _, tokenization = load_policy(project, project.reference())
        work |= {"policy": project.reference().path, "reward": str(project.root / project.reward_models(0)[0].path)}
        if what in ("online", "ppo"):
            prompts = project.store.prompts(split="train", heldout=project.config.data.heldout)
            random = folder / "random"
            policy, reward, lines = random_models(random)
            fixed = work | {"policy": str(policy), "reward": str(reward), "max_tokens": 64}
            version = LAST_WITH_PPO if what == "ppo" else GENERAL
            kinds: dict[str, Work] = {"GRPO": {"kind": "grpo"}, "RLOO": {"kind": "rloo"}}
            if what == "ppo":  # Its trainer knows no lists: a prompt's completions are as many rows of its data.
                kinds = {f"PPO, K = {asked.k}": {"kind": "ppo"}, "PPO, K = 1": alone | {"kind": "ppo"}}
            for name, more in kinds.items():
                given = online(folder, tokenization, prompts, work | more)
                yield compare(f"{name}, project's policy", folder, given, asked, version)
                _, other = load_causal(policy)
                given = online(random, other, lines, fixed | more)
                yield compare(f"{name}, random Llama 5.4 M", random, given, asked, version)
        elif what == "sft":
            shown = sorted(project.store.demonstrations(), key=lambda d: d.prompt.id)[: 2 * asked.batch * work["steps"]]
            yield compare("SFT", folder, demonstrated(folder, tokenization, shown, work | {"kind": "sft"}), asked)
        else:
            items: Iterable[Item] = project.store.items(criterion=project.reward_models(0)[0].criterion, ranked=True)
            if asked.data:
                items = (row for row in exchange.read(asked.data) if isinstance(row, Item))
            lists = int(1.1 * asked.batch * work["steps"]) + 8
            yield compare(what, folder, ranked(folder, tokenization, items, work | {"kind": what}, lists), asked)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["online", "ppo", "families", "reward", "dpo", "sft", "memory", "large"])
    parser.add_argument("--project", type=Path, help="a project with a policy and a reward model")
    parser.add_argument("--data", type=Path, help="reward, dpo: rankings of this file instead of the project's")
    parser.add_argument("--peers", type=Path, default=HERE / ".peers", help="where TRL's environments are, or are made")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="timed steps of each run")
    parser.add_argument("--completions", type=int, default=64, help="a step (online, ppo)")
    parser.add_argument("--k", type=int, default=8, help="completions a prompt")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--max-length", type=int, default=512, help="prompt and answer (reward, dpo, sft)")
    parser.add_argument("--batch", type=int, default=16, help="lists or demonstrations a step (reward, dpo, sft)")
    parser.add_argument("--token-budget", type=int, help="ours: padded tokens in one forward pass (8192)")
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--size", choices=SIZES, default="0.5B", help="of the random Llama (large)")
    parser.add_argument("--json", type=Path, help="write the figures here")
    asked = parser.parse_args()
    if asked.what not in RANDOM and asked.project is None:
        parser.error("name a project that has been through sft and reward: --project DIR (make demo makes one)")
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for row in measure(asked, Path(temporary)):  # They are written as they come: a later one may run out of memory.
            rows.append(row)
            if asked.json:
                found = {"command": sys.argv, "threads": asked.threads, "rows": rows}
                asked.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
