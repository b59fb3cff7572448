"""Runs as a program: it kills one stage of a tiny project over and over, and runs the same stage left in peace.

    python resumable.py STAGE FOLDER  ->  one JSON line with what both runs came to

Every run is a forked child, so that kills are real (SIGKILL at a random moment, or no return from a random call into
the file system) while the seconds of importing torch are paid once. Nothing but imports happens in this process.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from prefloop import record
from prefloop.engine import checkpoint as checkpoints
from prefloop.project.project import Project
from prefloop.stages.align import align
from prefloop.stages.sft import sft
from prefloop.stages.train_reward import reward
from prefloop.training import loop
from prefloop.types import Completion, Demonstration, Item, Prompt, Ranking

KILLS = 6  # at random moments
STOPS = (1, 4)  # once the first checkpoint from this step on is saved
IO = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree")
TOML = """
[project]
seed = 3
threads = 1
device = "cpu"
[model]
init = "scratch"
vocab_size = 300
hidden_size = 16
layers = 2
heads = 2
context = 64
[data]
heldout = 0.25
[sft]
batch = 4
epochs = 4
max_tokens = 64
eval_every = 4
checkpoint_every = 3
[reward]
batch = 4
epochs = 4
dropout = 0.2
freeze = 1
average = 0.5
eval_every = 4
checkpoint_every = 3
normalise_prompts = 8
[align]
algorithm = "ppo"
lr = 3e-3
steps = 10
max_tokens = 10
ptx = 0.1
average = 0.9
checkpoint_every = 3
[align.rollout]
prompts = 4
k = 2
epochs = 2
[align.evaluation]
eval_every = 4
eval_prompts = 8
[algorithms.ppo]
kl_target = 0.5
kl_horizon = 100.0
"""
WORDS = "the cat sat on a mat and one dog ran to my park with his red ball".split()  # noqa: SIM905
STAGES: dict[str, tuple[Callable[[Project], Any], list[str]]] = {
    "sft": (sft, []),
    "reward": (reward, []),
    "ppo": (align, ["align.lr=1e-2"]),
    "grpo": (align, ["align.algorithm=grpo", "align.rollout.k=3"]),
    "stale": (
        align,
        ["align.algorithm=grpo", "align.rollout.k=3", "align.rollout.staleness=1", "align.checkpoint_every=4"],
    ),
    "constrained": (
        align,
        [
            "align.algorithm=rloo",
            "align.rollout.k=3",
            "align.lr=1e-2",
            "align.reward=length",
            'align.objective.scorers={brevity="brevity"}',
            "align.objective.kind=constrained",
            "align.objective.subject_to={brevity=-14}",
        ],
    ),
    "dpo": (align, ["align.algorithm=dpo", "align.lists=4", "align.passes=4"]),
}


def build(root: Path, with_reward: bool) -> None:
    """Make a project with demonstrations and ranked lists, and, for online algorithms, a reward model."""
    root.mkdir(parents=True)
    (root / "prefloop.toml").write_text(TOML)
    rng = random.Random(5)

    def text(n: int) -> str:
        return " ".join(rng.choice(WORDS) for _ in range(n))

    records: list[Any] = []
    for n in range(32):
        prompt = Prompt(f"{n} {text(3)}")
        records.append(Demonstration(prompt, text(5)))
        completions = tuple(Completion(f"i{n}:c{k}", text(rng.randint(2, 6))) for k in range(3))
        order = sorted((c.id for c in completions), key=lambda _: rng.random())
        tiers = ((order[0],), (order[1],), (order[2],)) if n % 3 else ((order[0], order[1]), (order[2],))
        records.append(Item(f"i{n}", prompt, completions, (Ranking(f"i{n}", "w", "quality", tiers),)))
    with Project.open(root, quiet=True) as project:
        project.store.add(records)
        project.base()  # This makes the model.
        if with_reward:
            reward(project)


def forked(act: Callable[[], None], kill_after_s: float | None = None) -> bool:
    """Run in a child; return whether it came to its end. Raises where it failed by itself."""
    pid = os.fork()
    if pid == 0:
        try:
            act()
        except BaseException as error:  # noqa: BLE001 -- a forked child must never return into the parent's code
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
            os._exit(1)
        os._exit(0)
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        os.kill(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code not in (0, 9, -signal.SIGKILL):
        raise RuntimeError(f"the stage failed by itself, with {code}")
    return code == 0


def count_io(at: Callable[[int], None]) -> list[int]:
    """Let `at(n)` be called before the n-th call into the file system."""
    done = [0]

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event in IO:
            done[0] += 1
            at(done[0])

    sys.addaudithook(hook)
    real = os.fsync

    def fsync(descriptor: int) -> None:
        done[0] += 1
        at(done[0])
        real(descriptor)

    os.fsync = fsync
    return done


def run_stage(stage: str, root: Path, die_at: int = 0, forget: str = "", stop_at: int = 0) -> None:
    """Open the project and run the stage, in a child.

    die_at: exit at this call into the file system
    stop_at: exit once a checkpoint of this step or later is saved
    forget: what is taken out of the checkpoint before it is restored ("file", or "state/key/key")
    """
    calls = count_io(lambda n: os._exit(9) if n == die_at else None)
    if forget:
        _forget(forget)
    if stop_at:
        _stop(stop_at)
    act, overrides = STAGES[stage]
    with Project.open(root, overrides, quiet=True) as project:
        act(project)
    (root / "calls").write_text(str(calls[0]))


def _stop(step: int) -> None:
    real = checkpoints.save_checkpoint

    def save(root: Path, at: int, *rest: Any) -> None:
        real(root, at, *rest)
        if at >= step:
            os._exit(9)

    loop.save_checkpoint = save


def _forget(what: str) -> None:
    real = checkpoints.load_checkpoint

    def load(root: Path) -> Any:
        found = real(root)
        assert found is not None, "nothing to forget"
        files, state = dict(found.files), json.loads(json.dumps(found.state))
        if what.startswith("state/"):
            *path, last = what.split("/")[1:]
            place = state
            for key in path:
                place = place[key]
            place[last] = {"kl": 0.05, "steps": 0, "best_reward": None, "logs": {}}[last]
        elif what.endswith(".adam"):
            files[what] = {}
        else:
            files[what] = {n: torch.zeros_like(t) for n, t in files[what].items()}
        return checkpoints.Checkpoint(found.step, files, state)

    loop.load_checkpoint = load


def outcome(stage: str, root: Path) -> dict[str, Any]:
    """Return everything that must not depend on interruptions."""
    name = stage if stage in ("sft", "reward") else "align"
    run = record.find_run(root, name)
    assert run is not None, f"{name} is not done"
    with Project.open(root, quiet=True) as project:
        registered = [m.weights_sha256 for m in project.store.models() if m.run_id == run.name]
        rollouts = dict(project.store.counts()).get("rollouts", 0)
    return {
        "files": {
            str(path.relative_to(run.path)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(run.path.rglob("*"))
            if path.is_file() and path.name not in ("timings.jsonl", "manifest.json")
        },
        "registered": registered,
        "metrics": run.metrics(),
        "rollouts": rollouts,
        "runs": len([r for r in record.runs(root) if r.manifest["stage"] == name]),
    }


def told(stage: str, root: Path) -> dict[str, Any]:
    """Return `outcome`, found out by a child: this process stays free of databases and threads."""
    note = root.with_suffix(".json")
    forked(lambda: note.write_text(json.dumps(outcome(stage, root))) and None)
    found: dict[str, Any] = json.loads(note.read_text())
    return found


def main(stage: str, folder: Path) -> dict[str, Any]:
    base = folder / "base"
    forked(lambda: build(base, with_reward=stage in ("ppo", "grpo", "stale")))

    def fresh(name: str) -> Path:
        shutil.copytree(base, folder / name)
        return folder / name

    straight = fresh("straight")
    began = time.perf_counter()
    assert forked(lambda: run_stage(stage, straight))
    seconds, calls = time.perf_counter() - began, int((straight / "calls").read_text())

    rng, broken, kills = random.Random(stage), fresh("broken"), 0
    for step in STOPS:  # for sure from checkpoints, wherever the kills below may fall
        kills += not forked(lambda step=step: run_stage(stage, broken, stop_at=step))  # type: ignore[misc]
    for n in range(KILLS):
        if n % 2:
            died = not forked(lambda: run_stage(stage, broken), kill_after_s=rng.uniform(0.05, 0.5) * seconds)
        else:
            at = rng.randint(1, calls // 3)
            died = not forked(lambda at=at: run_stage(stage, broken, die_at=at))  # type: ignore[misc]
        kills += died
        if not died:
            break
    forked(lambda: run_stage(stage, broken))

    controls = {}
    for what in _items(stage):
        forgetful = fresh(f"without-{what.replace('/', '-')}")
        assert not forked(lambda forgetful=forgetful: run_stage(stage, forgetful, stop_at=6))  # type: ignore[misc]
        assert forked(lambda f=forgetful, w=what: run_stage(stage, f, forget=w))  # type: ignore[misc]
        controls[what] = told(stage, forgetful)
    return {
        "kills": kills,
        "straight": told(stage, straight),
        "broken": told(stage, broken),
        "controls": controls,
        "seconds": seconds,
    }


def _items(stage: str) -> list[str]:
    if stage == "reward":
        return ["reward.adam", "reward.average", "state/engine/steps"]
    if stage == "ppo":
        return ["policy.adam", "critic", "state/progress/algorithm/kl"]
    return ["policy.adam", *(["state/progress/balance/logs"] if stage == "constrained" else [])]


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]))))
