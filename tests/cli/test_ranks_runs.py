"""Commands on two ranks: started by `prefloop` itself and by two agents of torchrun, killed, and started again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from prefloop.cli.main import run
from prefloop.engine.checkpoint import load_checkpoint
from tiny_models import TINY_MODEL
from two_ranks import free_port

SETTINGS = """
rank_timeout = 120
"""
ALIGN = """
[align]
algorithm = "rloo"
reward = "file.py:vowels"
lr = 1e-2
steps = 4
max_tokens = 8
checkpoint_every = 1
average = 0.5
[align.rollout]
prompts = 4
k = 2
[align.evaluation]
eval_every = 4
eval_prompts = 4
"""
REWARD = """
def vowels(prompt, answer):
    return sum(letter in "aeiou" for letter in answer) / (1 + len(answer))
"""


def project(folder: Path) -> Path:
    folder.mkdir()
    (folder / "prefloop.toml").write_text(TINY_MODEL.replace("[model]", SETTINGS + "[model]", 1) + ALIGN)
    (folder / "file.py").write_text(REWARD)
    lines = [json.dumps({"prompt": f"say something about number {n}"}) for n in range(20)]
    (folder / "prompts.jsonl").write_text("\n".join(lines))
    assert run(["import", str(folder / "prompts.jsonl"), "-C", str(folder), "-q"]) == 0
    return folder


def started(arguments: Sequence[str], tag: str, **more: str) -> subprocess.Popen[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "RANKS_TEST": tag, **more}
    return subprocess.Popen(
        [sys.executable, *arguments], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def metrics(folder: Path) -> list[dict[str, Any]]:
    (file,) = folder.glob("runs/align-*/metrics.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def final(folder: Path) -> dict[str, Tensor]:
    """Return all tensors of the last checkpoint: weights, averages and moments."""
    (root,) = folder.glob("runs/align-*/checkpoints")
    found = load_checkpoint(root)
    assert found is not None and found.step == 4
    return {f"{file}/{name}": x for file, some in found.files.items() for name, x in some.items()}


def alive(tag: str) -> list[str]:
    found = []
    for place in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"RANKS_TEST={tag}".encode() in place.read_bytes():
                found.append((place.parent / "cmdline").read_text())
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_ranks_of_which_one_is_killed_start_again_and_come_to_the_bits_of_two_quiet_agents(tmp_path: Path) -> None:
    """The quiet run is of two agents of torchrun that meet on loopback, as those of two nodes do."""
    quiet, killed, port = project(tmp_path / "quiet"), project(tmp_path / "killed"), free_port()
    tag = uuid.uuid4().hex
    meet = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}"]
    command = ["-m", "prefloop", "align", "-C", str(quiet), "--json"]
    agents = [started(["-m", "torch.distributed.run", *meet, *command], tag) for _ in range(2)]
    said = [agent.communicate(timeout=300) for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], said
    (answer,) = [json.loads(out) for out, _ in said if out]
    assert answer["steps"] == 4 and not alive(tag)

    dying = os.pathsep.join([str(Path(__file__).parent / "dying"), os.environ.get("PYTHONPATH", "")])
    alone = started(
        ["-m", "prefloop", "align", "-C", str(killed), "--json", "--set", "project.ranks=2"],
        tag,
        DIE="0:save:4",
        PYTHONPATH=dying,
    )
    out, err = alone.communicate(timeout=300)
    assert alone.returncode == 0 and json.loads(out)["weights"] == answer["weights"], err
    assert err.count("going on with") == 1, "rank 0 was killed while it wrote the second checkpoint"
    assert not alive(tag), "no process is left"
    assert metrics(killed) == metrics(quiet) and [line["step"] for line in metrics(killed)] == [0, 1, 2, 3, 4]
    ended, expected = final(killed), final(quiet)
    assert ended.keys() == expected.keys() and all(torch.equal(x, expected[name]) for name, x in ended.items())
