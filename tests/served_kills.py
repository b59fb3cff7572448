"""Runs as a program: it kills trainer and rollout server at random moments, and compares with the quiet run.

    python served_kills.py KILLS SEED FOLDER  ->  one JSON line with what the runs came to

Trainer and server are forked children, so that kills are real (SIGKILL) while importing torch is paid once.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from prefloop.config import Model
from prefloop.engine.rollouts import server
from prefloop.engine.rollouts.engine import ServedEngine  # noqa: F401 -- so that no child has to import it
from prefloop.project.project import Project
from prefloop.stages.align import align
from prefloop.types import Prompt
from tiny_models import TINY_MODEL

TOML = (
    TINY_MODEL.replace("layers = 1", "layers = 2")  # With one layer nothing is learnt, and no model is kept.
    + """
[data]
heldout = 0.25
[align]
algorithm = "grpo"
reward = "length"
lr = 3e-3
steps = 6
max_tokens = 10
average = 0.9
checkpoint_every = 2
[align.rollout]
prompts = 4
k = 2
[align.evaluation]
eval_every = 3
eval_prompts = 8
[rollout]
backend = "prefloop"
retries = 30
backoff = 0.02
timeout = 20
servers = ["http://127.0.0.1:PORT"]
"""
)
WORDS = ["red", "blue", "green", "black", "cat", "hat", "box", "cup", "key", "bag", "car", "pen", "map", "fan"]


def forked(work: Callable[[], Any]) -> int:
    """Return the number of a child that does the work."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        torch.set_num_threads(1)
        work()
        code = 0
    finally:
        sys.stderr.flush()
        os._exit(code)


def done(child: int) -> bool:
    """Return whether a child has ended well; False where it was killed. Raises where it failed."""
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return False
    if os.WEXITSTATUS(status):
        raise SystemExit("a run failed by itself: see what it wrote above")
    return True


def train(root: Path) -> None:
    with Project.open(root, quiet=True) as project:
        align(project)


def prepare(root: Path) -> None:
    """Make a project with prompts, and a folder of the model that it starts from."""
    rng = random.Random(1)
    with Project.open(root, quiet=True) as project:
        project.store.add(Prompt(f"{n} {' '.join(rng.sample(WORDS, 3))}") for n in range(24))
        (root / "start").write_text(project.policy(0).path)


def start_server(model: str, port: int) -> int:
    def serve() -> None:
        server.serve(server.listen("127.0.0.1", port, "", "KEY"), model, Model(), "cpu")

    return forked(serve)


def came_to(root: Path) -> dict[str, Any]:
    """Return a hash of the final model, and the metrics, without what went wrong on the way."""
    run = next((root / "runs").glob("align-*"))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kept = [{k: v for k, v in line.items() if not k.startswith("rollout_")} for line in lines]
    repeated = sum(line.get("rollout_retries", 0) for line in lines)
    model = hashlib.sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest()
    return {"model": model, "metrics": kept, "retries": repeated}


def kill_at_random(rng: random.Random, root: Path, model: str, port: int, lasts: float, most: int) -> dict[str, int]:
    """Run a project to its end; at random moments one of the two is killed, and started again at once."""
    killed = {"trainer": 0, "server": 0}
    serving, trainer = start_server(model, port), forked(lambda: train(root))
    while True:
        until = time.monotonic() + rng.uniform(0.05, lasts / 2)
        while time.monotonic() < until and sum(killed.values()) < most:
            if os.waitid(os.P_PID, trainer, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                break
            time.sleep(0.005)
        else:
            if sum(killed.values()) < most:
                if rng.random() < 0.5:
                    os.kill(serving, signal.SIGKILL)
                    killed["server"] += 1
                    done(serving)
                    serving = start_server(model, port)
                else:
                    os.kill(trainer, signal.SIGKILL)
                    killed["trainer"] += not done(trainer)
                    trainer = forked(lambda: train(root))
                continue
        done(trainer)
        os.kill(serving, signal.SIGKILL)
        done(serving)
        return killed


def main(kills: int, seed: int, folder: Path) -> dict[str, Any]:
    rng = random.Random(seed)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    fresh = folder / "project"
    fresh.mkdir(parents=True)
    (fresh / "prefloop.toml").write_text(TOML.replace("PORT", str(port)))
    assert done(forked(lambda: prepare(fresh)))
    model = (fresh / "start").read_text()
    # All runs have one path, which is the trainer's name: a server would refuse another one.
    saved, root = folder / "saved", fresh
    shutil.copytree(fresh, saved)
    began = time.monotonic()
    kill_at_random(rng, root, model, port, 1.0, 0)
    lasts = time.monotonic() - began
    quiet, total, runs, same = came_to(root), {"trainer": 0, "server": 0}, 0, True
    retries = 0
    while sum(total.values()) < kills:
        shutil.rmtree(root)
        shutil.copytree(saved, root)
        killed = kill_at_random(rng, root, model, port, lasts, kills - sum(total.values()))
        found = came_to(root)
        same = same and all(found[key] == quiet[key] for key in ("model", "metrics"))
        total, runs, retries = {who: total[who] + killed[who] for who in total}, runs + 1, retries + found["retries"]
    return {"killed": total, "runs": runs, "same": same, "steps": [x["step"] for x in quiet["metrics"]],
            "quiet_retries": quiet["retries"], "retries": retries, "seconds_quiet": round(lasts, 2)}  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))))
