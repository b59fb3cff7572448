"""Runs `prefloop demo`: the loop on the built-in scenario, and beside it imitation under the same labelling budget.

    out/             a project like any other: sample -> crowd -> reward -> align -> evaluate
    out/imitation/   a second project: as many *new demonstrations* as the first has ranked lists -> sft

Then both policies, and best-of-n with the reward model, answer the same held-out prompts, and the hidden true quality
is looked up. Everything derives from the seed; the same `out` again goes on where it was stopped.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from contextlib import closing
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np

from prefloop import record
from prefloop.config import CONFIG_NAME
from prefloop.demo.quality import WEIGHTS, quality
from prefloop.demo.scenario import demonstrations, prompts
from prefloop.engine import make as make_engine
from prefloop.engine.base import Sampling
from prefloop.errors import ConfigError
from prefloop.intervals import mean_interval, win_rate
from prefloop.models.policy import Policy
from prefloop.models.tokenization import Tokenization
from prefloop.project.project import Project, derive, load_policy
from prefloop.results import DemoFigures
from prefloop.stages.align import align
from prefloop.stages.crowd import crowd
from prefloop.stages.evaluate import evaluate
from prefloop.stages.report import report
from prefloop.stages.sample import sample
from prefloop.stages.sft import sft
from prefloop.stages.train_reward import reward
from prefloop.training.policy_evaluation import validation_and_test
from prefloop.training.reward_scores import make_scorer
from prefloop.training.sampled_lists import to_completion
from prefloop.types import Completion, Prompt

PROMPTS = 2000  # So many prompts of customers there are; some of them are held out.
ROUNDS = 2
BUDGET = 500  # The crowd ranks so many lists in all rounds together, and imitation gets so many demonstrations instead.
BEST_OF = 8
SHOWN = 8

SETTINGS = """# The built-in demo, a project like any other: change what you like and type `prefloop run` in this folder
[project]
name = "demo"
seed = {seed}

[model]
path = "model"

[data]
heldout = 0.12

[sample]
k = 4
prompts = {lists}
max_tokens = 64

[crowd]            # simulated people; the hidden true quality is known to them and to the final measurement only
scorer = "demo"
annotators = 20
quality_sd = 3.0   # careful people agree on 77 % of pairs

[reward]
objective = "plackett_luce"
epochs = 2
batch = 8
lr = 5e-4
freeze = 2
weight_decay = 0.01
eval_every = 100
checkpoint_every = 100

[align]
algorithm = "ppo"
steps = 14
lr = 3e-4
critic_lr = 1e-3
max_tokens = 64
checkpoint_every = 7

[align.rollout]
prompts = 16
k = 4
minibatches = 4

[align.evaluation]
kl_budget = 30
eval_every = 7
eval_prompts = 48

[algorithms.ppo]
kl = 0.05

[evaluate]
scorer = "demo"
samples = 4        # half of the usual, for a demo that ends soon
temperature = 0.7
max_tokens = 64

[run]
rounds = {rounds}
stages = ["sample", "crowd", "reward", "align", "evaluate", "report"]
"""
IMITATION = """# Supervised fine-tuning on as many demonstrations as the crowd ranked lists.
[project]
name = "imitation"
seed = {seed}

[model]
path = "../model"

[data]
heldout = 0.0

[sft]
epochs = 1
batch = 32
lr = 2e-4
"""


def demo(out: Path, seed: int = 0, quiet: bool = False) -> DemoFigures:
    """Run or resume the demo in `out`. Raises ConfigError."""
    began = time.perf_counter()
    make_projects(out, seed)
    with Project.open(out, quiet=quiet) as project, Project.open(out / "imitation", quiet=quiet) as imitation:
        for turn in range(ROUNDS):
            sample(project, turn)
            crowd(project)
            reward(project, turn)
            align(project, turn)
        evaluate(project, ROUNDS - 1)
        sft(imitation)
        measured = measure(project, imitation, seed)
        record.write_json_atomic(out / "demo.json", measured)
        report(project)
    return DemoFigures(
        seconds=round(time.perf_counter() - began, 1),
        seed=seed,
        win_rate=measured["win_rate"]["mean"],
        win_rate_low=measured["win_rate"]["low"],
        win_rate_high=measured["win_rate"]["high"],
        quality={name: measured["quality"][name] for name in ("demonstrations", "sft", "best_of_n", "rlhf")},
        demonstrations_p95=measured["quality"]["demonstrations_p95"],
        kl=measured["kl"],
        reward_accuracy=measured["reward_accuracy"],
        prompts=measured["win_rate"]["n"],
        report=str(out / "report.html"),
    )


def make_projects(out: Path, seed: int) -> None:
    """Make the two project folders with model, settings and data; what is already there stays."""
    settings = SETTINGS.format(seed=seed, lists=BUDGET // ROUNDS, rounds=ROUNDS)
    config = out / CONFIG_NAME
    if config.exists() and f"\nseed = {seed}\n" not in config.read_text():
        raise ConfigError(f"{out} holds a demo with another seed. Give another --out, or remove the folder.")
    if out.exists() and not config.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty and no demo. Give another --out.")
    (out / "imitation").mkdir(parents=True, exist_ok=True)
    if not (out / "model").exists():
        with as_file(files("prefloop.demo") / "model") as shipped:
            aside = out / ".model.new"
            shutil.rmtree(aside, ignore_errors=True)
            shutil.copytree(shipped, aside)
            aside.rename(out / "model")
    if not config.exists():
        record.write_atomic(out / "imitation" / CONFIG_NAME, IMITATION.format(seed=seed).encode())
        record.write_atomic(config, settings.encode())
    with Project.open(out, quiet=True) as project:
        project.store.add(prompts(PROMPTS, derive(seed, "demo-prompts")))
    with Project.open(out / "imitation", quiet=True) as project:
        project.store.add(demonstrations(BUDGET, derive(seed, "demo-demonstrations")))


def measure(project: Project, imitation: Project, seed: int) -> dict[str, Any]:
    """Return the true quality of every system on the held-out prompts that nothing was chosen on."""
    heldout = project.store.prompts(split="heldout", heldout=project.config.data.heldout)
    _, asked = validation_and_test(heldout)
    settings = project.config.evaluate
    sampling = Sampling(settings.max_tokens, settings.temperature)
    models = {
        "base": project.base(),
        "sft": imitation.reference(),
        "rlhf": project.policy(ROUNDS),
    }
    texts: dict[str, list[str]] = {}
    for name, ref in models.items():
        model, tokenization = load_policy(project, ref)
        k = BEST_OF if name == "base" else 1
        drawn = _answers(project, model, tokenization, asked, k, sampling, derive(seed, "demo", name))
        if name == "base":
            texts["best_of_n"] = _best(project, asked, drawn)
        else:
            texts[name] = [row[0].text for row in drawn]
    shown = demonstrations(2000, derive(seed, "demo-measure"))
    by_demonstration = np.array([quality(d.prompt, d.text).score for d in shown])
    texts["demonstration"] = [d.text for d in _for_prompts(asked, seed)]
    scores = {name: [quality(p, t).score for p, t in zip(asked, rows, strict=True)] for name, rows in texts.items()}
    wins = win_rate(scores["rlhf"], scores["sft"], settings.bootstrap, seed)
    evaluated = evaluate(project, ROUNDS - 1)
    judged = reward(project, ROUNDS - 1).models[project.config.crowd.criterion]
    return {
        "title": "A support desk under policy",
        "text": (
            f"Simulated people ranked {BUDGET} lists of four answers. The same number of new demonstrations went into "
            "supervised fine-tuning instead. Both started from the same small model. True quality is known because "
            "the scenario is artificial; the reward model never saw it."
        ),
        "quality": {
            "demonstrations": float(by_demonstration.mean()),
            "demonstrations_p95": float(np.percentile(by_demonstration, 95)),
            "demonstrations_best": float(by_demonstration.max()),
            **{name: float(np.mean(scores[name])) for name in ("sft", "best_of_n", "rlhf")},
        },
        "quality_interval": {n: mean_interval(s, settings.bootstrap, seed) for n, s in scores.items()},
        "quality_parts": {name: _parts(asked, rows) for name, rows in texts.items()},
        "per_prompt": scores,
        "win_rate": wins,
        "best_of": BEST_OF,
        "budget": BUDGET,
        "kl": evaluated.kl,
        "reward_accuracy": judged.accuracy,
        "samples": _samples(asked, texts, scores),
    }


def _answers(
    project: Project,
    model: Any,
    tokenization: Tokenization,
    asked: Sequence[Prompt],
    k: int,
    sampling: Sampling,
    seed: int,
) -> list[list[Completion]]:
    """Draw K completions of each prompt."""
    ids = [tokenization.encode_prompt(p) for p in asked for _ in range(k)]
    with closing(make_engine({"policy": Policy(model)}, tokenization, seed, device=project.device)) as engine:
        drawn = engine.generate(ids, [derive(0, p.id, j) for p in asked for j in range(k)], sampling)
    rows = zip((p for p in asked for _ in range(k)), drawn, strict=True)
    flat = [to_completion(tokenization, p, f"demo:{n}", s, "demo", {}) for n, (p, s) in enumerate(rows)]
    return [flat[n * k : (n + 1) * k] for n in range(len(asked))]


def _best(project: Project, asked: Sequence[Prompt], drawn: list[list[Completion]]) -> list[str]:
    """Choose from each list the completion with the highest score of the reward model."""
    scorer = make_scorer(project, project.reward_models(ROUNDS - 1))
    flat = [c for row in drawn for c in row]
    scores = scorer.score([p for p, row in zip(asked, drawn, strict=True) for _ in row], flat).total
    ranked = np.array(scores).reshape(len(drawn), -1).argmax(1)
    return [row[int(best)].text for row, best in zip(drawn, ranked, strict=True)]


def _for_prompts(asked: Sequence[Prompt], seed: int) -> list[Any]:
    """Return a demonstration for each held-out prompt, for the side-by-side view."""
    import random

    from prefloop.demo.scenario import demonstration
    from prefloop.types import Demonstration

    rng = random.Random(derive(seed, "demo-shown"))
    return [Demonstration(p, demonstration(p, rng)) for p in asked]


def _parts(asked: Sequence[Prompt], rows: Sequence[str]) -> dict[str, float]:
    """Return the mean of each component of true quality."""
    parts = [quality(p, t) for p, t in zip(asked, rows, strict=True)]
    return {name: float(np.mean([getattr(q, name) for q in parts])) for name in (*WEIGHTS, "readable")}


def _samples(
    asked: Sequence[Prompt], texts: dict[str, list[str]], scores: dict[str, list[float]]
) -> list[dict[str, Any]]:
    stride = max(1, len(asked) // SHOWN)
    return [
        {
            "prompt": asked[n].text,
            **{name: {"text": texts[name][n], "quality": scores[name][n]} for name in texts},
        }
        for n in list(range(0, len(asked), stride))[:SHOWN]
    ]
