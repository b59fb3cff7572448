"""How the demo's small language model was made: `python -m prefloop.demo.train --out FOLDER`.

The ordinary stages, nothing else: a tokenizer of its own and a Llama of about a million parameters, fitted to the
scenario's demonstrations and, in equal number, to case notes (`notes.py`), which teach it to read. The result is what
lies in `prefloop/demo/model`.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from prefloop.demo.notes import notes
from prefloop.demo.scenario import demonstrations
from prefloop.stages.project import Project
from prefloop.stages.sft import sft

SEED = 20_000_000  # far from the seeds a demo draws its prompts from
SETTINGS = """
[project]
name = "demo-model"
[model]
init = "scratch"
vocab_size = 1024
hidden_size = 128
layers = 5
heads = 4
context = 192
[data]
heldout = 0.01
[sft]
epochs = {epochs}
batch = 32
lr = 2e-3
warmup = 0.03
weight_decay = 0.01
eval_every = 200
checkpoint_every = 500
"""


def train(out: Path, count: int, epochs: float, overrides: list[str]) -> dict[str, object]:
    """Train on `count` demonstrations and as many notes, and write the model to `out`."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "prefloop.toml").write_text(SETTINGS.format(epochs=epochs))
        with Project.open(root, overrides) as project:
            project.store.add(demonstrations(count, SEED))
            project.store.add(notes(count, SEED + 1))
            outcome = sft(project)
        shutil.copytree(root / str(outcome.result["model"]), out, dirs_exist_ok=True)
        return dict(outcome.result)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=40_000, help="demonstrations")
    parser.add_argument("--epochs", type=float, default=1.5)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    arguments = parser.parse_args()
    print(train(arguments.out, arguments.count, arguments.epochs, arguments.overrides))
