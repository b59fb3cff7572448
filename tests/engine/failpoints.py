"""Runs as a program: it saves in child processes that die at their N-th call into the file system, for every N.

    python failpoints.py checkpoint|publish|publish-again FOLDER  ->  one JSON line: {"kills": N, "problems": [...]}

Forking is done here, in a process of its own, where no other threads run.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from prefloop.engine.checkpoint import load_checkpoint, publish, save_checkpoint

CALLS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree")


def die_at(n: int) -> None:
    """Let the n-th call from now on that touches the file system not return, nor do anything after it."""
    left = [n]

    def count() -> None:
        left[0] -= 1
        if left[0] <= 0:
            os._exit(9)

    sys.addaudithook(lambda event, args: count() if event in CALLS else None)
    real = os.fsync

    def fsync(descriptor: int) -> None:
        count()
        real(descriptor)

    os.fsync = fsync


def killed(act: Callable[[], None], n: int) -> bool:
    """Return whether `act` was killed at its n-th call; False where it came to its end first."""
    pid = os.fork()
    if pid == 0:
        try:
            die_at(n)
            act()
        except BaseException:  # noqa: BLE001 -- a forked test process must never return into the parent's code
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, 9), f"the child failed by itself, with {code}"
    return code == 9


def save(root: Path, step: int) -> None:
    files = {"policy": {"w": torch.full((50,), float(step))}, "policy.adam": {"0.step": torch.tensor(float(step))}}
    save_checkpoint(root, step, files, {"step": step})


def whole(root: Path, allowed: tuple[int, ...]) -> str:
    """Return what is wrong with the checkpoint that would be loaded; "" if nothing."""
    found = load_checkpoint(root)
    if found is None:
        return "no checkpoint"
    if found.step not in allowed:
        return f"step {found.step}"
    values = {float(found.files["policy"]["w"][0]), float(found.files["policy.adam"]["0.step"]), found.state["step"]}
    return "" if values == {found.step} else f"mixed: {values} in step {found.step}"


def checkpoints(root: Path) -> dict[str, object]:
    problems: list[str] = []
    n = 0
    while True:
        n += 1
        shutil.rmtree(root, ignore_errors=True)
        save(root, 1)
        save(root, 2)
        died = killed(lambda: save(root, 3), n)
        if wrong := whole(root, (2, 3)):
            problems.append(f"killed at call {n}: {wrong}")
        save(root, 3)  # The next process comes to the same step.
        names = sorted(p.name for p in root.iterdir())
        if whole(root, (3,)) or names != ["step-00000002", "step-00000003"]:
            problems.append(f"killed at call {n}, saved again: {whole(root, (3,))} {names}")
        if not died:
            return {"kills": n - 1, "problems": problems}


def publishing(root: Path, again: bool = False) -> dict[str, object]:
    """Replace a folder: until the new one stands, the old one is there (under its own name or its aside name)."""
    problems: list[str] = []
    target, n = root / "best", 0

    def put(text: str) -> None:
        publish(target, lambda tmp: [(tmp / name).write_text(text) for name in ("a", "b")] and None)

    def read(folder: Path) -> set[str]:
        return {(folder / name).read_text() for name in ("a", "b")}

    while True:
        n += 1
        shutil.rmtree(root, ignore_errors=True)
        put("old")
        if again:  # An earlier kill fell between the two renames.
            target.rename(root / ".best.old")
        died = killed(lambda: put("new"), n)
        standing = target if target.exists() else root / ".best.old"
        if not standing.exists():
            return {"kills": n, "problems": [f"killed at call {n}: neither the old nor the new is there"]}
        if len(read(standing)) != 1:
            problems.append(f"killed at call {n}: a mixture, {read(standing)}")
        put("newer")
        if read(target) != {"newer"} or sorted(p.name for p in root.iterdir()) != ["best"]:
            problems.append(f"killed at call {n}, published again: {sorted(p.name for p in root.iterdir())}")
        if not died:
            return {"kills": n - 1, "problems": problems}


if __name__ == "__main__":
    torch.set_num_threads(1)
    what = {
        "checkpoint": checkpoints,
        "publish": publishing,
        "publish-again": lambda root: publishing(root, again=True),
    }[sys.argv[1]]
    print(json.dumps(what(Path(sys.argv[2]))))
