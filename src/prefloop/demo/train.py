"""Makes the demo's small language model: `python -m prefloop.demo.train --out FOLDER`.

It uses the ordinary stages to make a tokenizer and a Llama of about a million parameters. The model first learns to
write answers and case notes, then answers and filing codes (`notes.py`), which teach it to read; near the end the
hardest letter comes oftener. The result lies in `prefloop/demo/model`.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from prefloop.demo.notes import filed, notes
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
batch = 32
lr = {lr}
warmup = 0.03
weight_decay = 0.01
eval_every = 200
checkpoint_every = 500
"""


def train(out: Path, count: int, overrides: list[str]) -> Tuned:
    """Train all four phases, the first on `count` answers and as many notes. Write the model to `out`."""
    some, more = count * 3 // 20, count * 7 // 20
    phases: list[tuple[float, float, Iterable[Demonstration]]] = [
        (1.5, 2e-3, [*demonstrations(count, SEED), *notes(count, SEED + 1)]),
        (1.0, 1e-3, [*demonstrations(some, SEED + 2), *filed(more, SEED + 3)]),
        (1.0, 1e-3, [*demonstrations(some, SEED + 4), *filed(more, SEED + 5, policy_first=0.5)]),
        (1.0, 1e-3, [*demonstrations(some, SEED + 6), *filed(more, SEED + 7, policy_first=0.9)]),
    ]
    model = SCRATCH
    with tempfile.TemporaryDirectory() as folder:
        for number, (epochs, lr, texts) in enumerate(phases):
            root = Path(folder) / str(number)
            result = _phase(root, model, texts, epochs, lr, overrides)
            last = root / result.model
            model = f'path = "{last}"'
        shutil.copytree(last, out, dirs_exist_ok=True)
    return result


def _phase(
    root: Path, model: str, texts: Iterable[Demonstration], epochs: float, lr: float, overrides: list[str]
) -> Tuned:
    root.mkdir()
    (root / "prefloop.toml").write_text(SETTINGS.format(model=model, epochs=epochs, lr=lr))
    with Project.open(root, overrides) as project:
        project.store.add(texts)
        return sft(project)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=40_000, help="demonstrations of the first phase")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    arguments = parser.parse_args()
    print(train(arguments.out, arguments.count, arguments.overrides).figures())
