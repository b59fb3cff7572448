"""Two small worlds for `planted.py`: a project each, ready to be aligned, with a hidden true quality.

demo      the scenario of `prefloop demo` and the model of `prefloop case`: a Llama that answers customers; PPO.
stories   another model, tokenizer and task: a wider and shallower Llama, made and fine-tuned here, that continues a
          sentence without a chat template; it is good to begin and to end kindly, whatever the length; GRPO.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

from prefloop.cases.world import MODEL, change
from prefloop.config import CONFIG_NAME
from prefloop.demo.run import make_projects
from prefloop.project.project import Project
from prefloop.stages.crowd import crowd
from prefloop.stages.sample import sample
from prefloop.stages.sft import sft
from prefloop.stages.train_reward import reward
from prefloop.types import Demonstration, Prompt

WORLDS = ("demo", "stories")

STORIES = """[project]
name = "stories"
seed = {seed}

[model]
init = "scratch"
vocab_size = 512
hidden_size = 160
layers = 3
heads = 4
context = 128

[data]
heldout = 0.15

[sft]
epochs = 6
batch = 32
lr = 2e-3

[sample]
k = 4
prompts = 200
max_tokens = 32

[crowd]
scorer = "kind.py:kindness"
annotators = 12
overlap = 1
quality_sd = 3.0

[reward]
epochs = 2
batch = 8
lr = 5e-4
eval_every = 25

[align]
algorithm = "grpo"
steps = 14
lr = 3e-4
checkpoint_every = 7
max_tokens = 32

[align.rollout]
prompts = 16
k = 4
minibatches = 4

[align.evaluation]
kl_budget = 30
eval_every = 7
eval_prompts = 48

[evaluate]
scorer = "kind.py:kindness"
max_tokens = 32
"""
SCORER = '''"""The hidden quality of the world of stories: they begin and end kindly, and say no word twice in a row."""

KIND = {"kind", "happy", "friend", "love", "nice", "smiled", "shared", "helped", "good", "bright"}


def kindness(prompt: str, text: str) -> float:
    sentences = [part.lower().split() for part in text.split(".") if part.strip()]
    if not sentences:
        return -1.0
    words = text.lower().replace(".", " ").split()
    twice = sum(a == b for a, b in zip(words, words[1:]))
    return 2.0 * bool(KIND & set(sentences[0])) + bool(KIND & set(sentences[-1])) - 0.5 * twice
'''
_WHO = (
    "Tom", "Lily", "the dog", "the old cat", "a small bird", "Ben", "Mia", "the bear", "Sue", "a boy", "a girl", "Max",
)  # fmt: skip
_WHERE = (
    "in the park",
    "at home",
    "by the sea",
    "in the wood",
    "at school",
    "on the hill",
    "in the rain",
    "near the lake",
)
_DID = (
    "saw a ball", "met a friend", "lost a hat", "ran away", "sat down", "helped a bird", "shared a cake", "broke a cup",
    "was sad", "was happy", "felt cold", "smiled", "cried", "found a bright stone", "said no", "was kind",
)  # fmt: skip


def prompts(n: int, seed: int) -> list[Prompt]:
    """Beginnings of a story, each once."""
    rng: random.Random = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < n:
        found[
            f"{rng.choice(_WHO)} and {rng.choice(_WHO)} were {rng.choice(_WHERE)}, {rng.randint(1, 40)} steps away."
        ] = None
    return [Prompt(text) for text in found]


def shown(n: int, seed: int) -> Iterator[Demonstration]:
    rng = random.Random(seed + 1)
    for prompt in prompts(n, seed + 2):
        told = [f"{rng.choice(_WHO)} {rng.choice(_DID)}." for _ in range(rng.randint(1, 4))]
        yield Demonstration(prompt, " ".join(told))


def make_world(world: str, folder: Path, seed: int) -> Path:
    """A project that is ready for `align`; made once, and then copied."""
    done = folder.with_name(folder.name + ".done")
    if done.exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    if world == "demo":
        make_projects(folder, seed, MODEL)
        shutil.rmtree(folder / "imitation")
        change(folder, ["align.steps=14", "align.evaluation.eval_every=7"])
    else:
        folder.mkdir(parents=True)
        (folder / CONFIG_NAME).write_text(STORIES.format(seed=seed), encoding="utf-8")
        (folder / "kind.py").write_text(SCORER, encoding="utf-8")
        with Project.open(folder, ["project.threads=1"], quiet=True) as project:
            project.store.add([*prompts(600, seed), *shown(1500, seed)])
            sft(project)
    with Project.open(folder, ["project.threads=1"], quiet=True) as project:
        sample(project)
        crowd(project)
        reward(project)
    done.touch()
    return folder
