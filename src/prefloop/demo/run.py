"""Runs `prefloop demo`: the loop on the built-in scenario, and beside it two other ways to spend the same labels.

    out/             a project like any other: sample -> crowd -> reward -> align -> evaluate
    out/imitation/   a second project: as many *new demonstrations* as the first has ranked lists -> sft
    out/dpo/         a third one: the ranked lists of the first -> DPO, without reward model or samples of its own

All start from the same model. Then they, and best-of-n with the reward model, answer the same held-out prompts, and the
hidden true quality is looked up. Everything derives from the seed; the same `out` again goes on where it was stopped.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path

from prefloop import record
from prefloop.config import CONFIG_NAME
from prefloop.demo.measure import measure
from prefloop.demo.scenario import demonstrations, prompts
from prefloop.errors import ConfigError
from prefloop.project.project import ModelRef, Project, derive
from prefloop.results import DemoFigures
from prefloop.stages.align import align
from prefloop.stages.crowd import crowd
from prefloop.stages.evaluate import evaluate
from prefloop.stages.report import report
from prefloop.stages.sample import sample
from prefloop.stages.sft import sft
from prefloop.stages.train_reward import reward

PROMPTS = 2000  # So many prompts of customers there are; some of them are held out.
ROUNDS = 2
BUDGET = 500  # The crowd ranks so many lists in all rounds together, and imitation gets so many demonstrations instead.

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
steps = 30
lr = 3e-4
critic_lr = 1e-3
max_tokens = 64
checkpoint_every = 10

[align.rollout]
prompts = 16
k = 4
minibatches = 4

[align.evaluation]
kl_budget = 30
eval_every = 10
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
DPO = """# DPO on the lists that the crowd ranked for the loop.
[project]
name = "dpo"
seed = {seed}

[model]
path = "../model"

[data]
heldout = 0.12

[align]
algorithm = "dpo"
passes = 2
lists = 16
lr = 1e-3
max_tokens = 64
checkpoint_every = 100

[align.evaluation]
eval_every = 50

[algorithms.dpo]
beta = 0.1
"""


def demo(out: Path, seed: int = 0, quiet: bool = False, overrides: Sequence[str] = ()) -> DemoFigures:
    """Run or resume the demo in `out`. Raises ConfigError.

    overrides: settings of the loop; those of `[project]` are for the projects beside it too
    """
    began = time.perf_counter()
    make_projects(out, seed)
    shared = [o for o in overrides if o.startswith("project.")]
    with Project.open(out, overrides, quiet=quiet) as project:
        for turn in range(ROUNDS):
            sample(project, turn)
            crowd(project)
            judged = reward(project, turn).models[project.config.crowd.criterion]
            align(project, turn)
        evaluated = evaluate(project, ROUNDS - 1)
        beside = {"sft": _imitation(out, shared, quiet), "dpo": _dpo(out, project, seed, shared, quiet)}
        measured = measure(project, beside | {"rlhf": project.policy(ROUNDS)}, ROUNDS - 1, seed)
        measured |= {
            "title": "A support desk under policy",
            "text": (
                f"Simulated people ranked {BUDGET} lists of four answers. DPO learnt from the same rankings, and the "
                "same number of new demonstrations went into supervised fine-tuning instead. All started from the same "
                "small model. True quality is known because the scenario is artificial; no training saw it."
            ),
            "budget": BUDGET,
            "kl": evaluated.kl,
            "reward_accuracy": judged.accuracy,
        }
        record.write_json_atomic(out / "demo.json", measured)
        report(project)
    return DemoFigures(
        seconds=round(time.perf_counter() - began, 1),
        seed=seed,
        win_rate=measured["win_rate"]["mean"],
        win_rate_low=measured["win_rate"]["low"],
        win_rate_high=measured["win_rate"]["high"],
        quality={name: measured["quality"][name] for name in ("demonstrations", "sft", "best_of_n", "dpo", "rlhf")},
        right_step={name: measured["right_step"][name]["mean"] for name in ("sft", "best_of_n", "dpo", "rlhf")},
        readable={name: measured["quality_parts"][name]["readable"] for name in ("sft", "best_of_n", "dpo", "rlhf")},
        distinct_2=measured["distinct_2"],
        demonstrations_p95=measured["quality"]["demonstrations_p95"],
        kl=measured["kl"],
        reward_accuracy=measured["reward_accuracy"],
        prompts=measured["win_rate"]["n"],
        report=str(out / "report.html"),
    )


def _imitation(out: Path, overrides: Sequence[str], quiet: bool) -> ModelRef:
    """Return the policy that learnt from demonstrations instead."""
    with Project.open(out / "imitation", overrides, quiet=quiet) as project:
        sft(project)
        return project.reference().here()


def _dpo(out: Path, ranked: Project, seed: int, overrides: Sequence[str], quiet: bool) -> ModelRef:
    """Return the policy that DPO made of the rankings of another project."""
    folder = out / "dpo"
    if not (folder / CONFIG_NAME).exists():
        folder.mkdir(exist_ok=True)
        record.write_atomic(folder / CONFIG_NAME, DPO.format(seed=seed).encode())
    with Project.open(folder, overrides, quiet=quiet) as project:
        project.store.add(replace(item, round=0, source="import") for item in ranked.store.items(ranked=True))
        align(project)
        return project.policy(1).here()


def make_projects(out: Path, seed: int, model: str = "prefloop.demo") -> None:
    """Make the two project folders with model, settings and data; what is already there stays.

    model: the package in which the model lies that they start from
    """
    settings = SETTINGS.format(seed=seed, lists=BUDGET // ROUNDS, rounds=ROUNDS)
    config = out / CONFIG_NAME
    if config.exists() and f"\nseed = {seed}\n" not in config.read_text():
        raise ConfigError(f"{out} holds a demo with another seed. Give another --out, or remove the folder.")
    if out.exists() and not config.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty and no demo. Give another --out.")
    (out / "imitation").mkdir(parents=True, exist_ok=True)
    if not (out / "model").exists():
        with as_file(files(model) / "model") as shipped:
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
