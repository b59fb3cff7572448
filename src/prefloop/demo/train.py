"""Makes the demo's small language model: `python -m prefloop.demo.train --out FOLDER`.

It uses the ordinary stages to make a tokenizer and a Llama of about a million parameters. The model first learns to
write answers and case notes, then answers and filing codes (`notes.py`). Tables teach it whether a step is the one that
the policy calls for: short ones first, then ones with whole answers, beside codes of single answers. At last it writes
answers and codes alone. The result lies in `prefloop/demo/model`.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from prefloop.demo.notes import filed, filed_with_rule, notes, tables
from prefloop.demo.scenario import demonstrations
from prefloop.project.project import Project
from prefloop.results import Tuned
from prefloop.stages.sft import sft
from prefloop.types import Demonstration

SEED = 20_000_000  # It is far from the seeds from which a demo draws its prompts.
SCRATCH = """
init = "scratch"
vocab_size = 1024
hidden_size = 128
layers = 5
heads = 4
context = 192
"""
SETTINGS = """
[project]
name = "demo-model"
[model]
{model}
[data]
heldout = 0.01
[sft]
epochs = {epochs}
batch = {batch}
lr = {lr}
schedule = "{schedule}"
warmup = 0.03
weight_decay = 0.01
eval_every = 200
checkpoint_every = 500
"""


@dataclass(frozen=True)
class Phase:
    """Holds what one phase learns from, and how."""

    texts: Iterable[Demonstration]
    lr: float
    epochs: float = 1.0
    batch: int = 32
    schedule: str = "cosine"


def phases(count: int) -> list[Phase]:
    """Return all phases: to write and take notes, to file codes, to learn the rule from tables, and to write again."""
    some, more, part = count * 3 // 20, count * 7 // 20, count // 40
    return [
        Phase([*demonstrations(count, SEED), *notes(count, SEED + 1)], 2e-3, 1.5),
        Phase([*demonstrations(some, SEED + 2), *filed(more, SEED + 3)], 1e-3),
        Phase([*demonstrations(some, SEED + 4), *filed(more, SEED + 5, policy_first=0.5)], 1e-3),
        Phase([*demonstrations(some, SEED + 6), *filed(more, SEED + 7, policy_first=0.9)], 1e-3),
        _rule(3_000_000, 1.5e-3, short=6 * part, coded=3 * part, written=part, first=0.3),
        _rule(4_000_000, 1.5e-3, whole=4 * part, coded=4 * part, written=part * 4 // 5),
        _rule(4_000_001, 1.5e-3, whole=3 * part, coded=5 * part, written=part * 4 // 5),
        _rule(4_000_002, 1.5e-3, whole=2 * part, coded=5 * part, written=part * 4 // 5),
        _rule(4_000_003, 1e-3, whole=2 * part, coded=6 * part, written=part * 3 // 2),
        _rule(4_000_004, 1e-3, "linear", whole=2 * part, coded=6 * part, written=part * 3 // 2),
        _rule(6_000_000, 1e-3, "linear", coded=5 * part, written=9 * part, first=0.8),
        _rule(7_000_000, 1e-3, "linear", coded=6 * part, written=6 * part, first=0.25),
        _rule(8_000_000, 1e-3, "linear", coded=3 * part, written=10 * part, first=0.25, batch=32),
    ]


def _rule(
    far: int,
    lr: float,
    schedule: str = "constant",
    short: int = 0,
    whole: int = 0,
    coded: int = 0,
    written: int = 0,
    first: float = 0.7,
    batch: int = 16,
) -> Phase:
    """Return a phase of tables of short or whole answers, codes and demonstrations, so many of each."""
    texts = [
        *tables(short, SEED + far + 500, rows=6, whole=False),
        *tables(whole, SEED + far + 500, rows=3, whole=True),
        *filed_with_rule(coded, SEED + far, first),
        *demonstrations(written, SEED + far + 1000),
    ]
    return Phase(texts, lr, batch=batch, schedule=schedule)


def train(out: Path, count: int, overrides: list[str]) -> Tuned:
    """Train all phases, the first on `count` answers and as many notes. Write the model to `out`."""
    model = SCRATCH
    with tempfile.TemporaryDirectory() as folder:
        for number, phase in enumerate(phases(count)):
            root = Path(folder) / str(number)
            result = _run(root, model, phase, overrides)
            last = root / result.model
            model = f'path = "{last}"'
        shutil.copytree(last, out, dirs_exist_ok=True)
    return result


def _run(root: Path, model: str, phase: Phase, overrides: list[str]) -> Tuned:
    root.mkdir()
    how = {"epochs": phase.epochs, "batch": phase.batch, "lr": phase.lr, "schedule": phase.schedule}
    (root / "prefloop.toml").write_text(SETTINGS.format(model=model, **how))
    with Project.open(root, overrides) as project:
        project.store.add(phase.texts)
        return sft(project)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=40_000, help="demonstrations of the first phase")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    arguments = parser.parse_args()
    print(train(arguments.out, arguments.count, arguments.overrides).figures())
