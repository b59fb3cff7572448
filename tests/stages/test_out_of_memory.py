"""Memory that runs out in a training step is an error that names the batch; the result is the same as without it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from prefloop.errors import TrainingError
from prefloop.kernels.memory import named_when_full

pytest.importorskip("resource", reason="this system has no limits on a process's memory")

# Each run is a forked child: the limit on its memory ends with it, and torch is imported once.
SCRIPT = """
import hashlib, json, os, resource, sys
from pathlib import Path

import torch

from prefloop import record
from prefloop.engine import checkpoint
from prefloop.engine.learner import Learner
from prefloop.errors import PrefloopError
from prefloop.project.project import Project
from prefloop.stages.sft import sft
from prefloop.types import Demonstration, Prompt

TOML = '''
[project]
threads = 1
device = "cpu"
[model]
init = "scratch"
vocab_size = 300
hidden_size = 128
layers = 2
heads = 2
context = 256
[sft]
batch = 32
epochs = 3
eval_every = 100
checkpoint_every = 2
'''

def make(name):
    root = Path(sys.argv[1]) / name
    root.mkdir()
    (root / "prefloop.toml").write_text(TOML)
    with Project.open(root, quiet=True) as project:
        words = "the red cat sat on a blue hat and said that it was all right ".split()
        project.store.add(
            Demonstration(Prompt(f"Tell {n}."), " ".join(words[(n * m) % 15] for m in range(60))) for n in range(96)
        )
    return root

def child(root, prepare=lambda: None):
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        prepare()
        try:
            with Project.open(root, quiet=True) as project:
                sft(project)
            said = ""
        except PrefloopError as error:
            said = f"{type(error).__name__}: {error}"
        os.write(write, said.encode())
        os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    return os.fdopen(read).read()

def die_after_a_checkpoint():
    real = checkpoint.save_checkpoint
    def save(*args, **more):
        real(*args, **more)
        os._exit(9)
    from prefloop.training import loop
    loop.save_checkpoint = save

def no_more_memory():
    real = Learner.step
    def step(self, *terms):
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used, resource.RLIM_INFINITY))
        taken = []  # what earlier steps have freed stays with the process, and might be enough, also in small pieces
        for size in (1 << 18, 1 << 16):
            try:
                while True:
                    taken.append(torch.empty(size))
            except RuntimeError:
                pass
        try:
            return real(self, *terms)
        finally:
            taken.clear()  # The step failed or not: what comes after it has memory again.
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    Learner.step = step

def checkpoints(root):
    files = sorted(p for p in root.rglob("*") if p.is_file() and "checkpoint" in str(p))
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}

def weights(root):
    return hashlib.sha256((root / "runs/sft-001/model/model.safetensors").read_bytes()).hexdigest()

calm, tried = make("calm"), make("tried")
child(calm)
child(tried, die_after_a_checkpoint)
before = checkpoints(tried)
said = child(tried, no_more_memory)
after = checkpoints(tried)
again = child(tried)
print(json.dumps({"said": said, "kept": bool(before) and before == after, "again": again,
                  "same": weights(calm) == weights(tried)}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit on memory is read off /proc")
def test_memory_that_runs_out_in_a_step_names_the_batch_and_costs_nothing(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout)
    assert re.match(r"TrainingError: memory ran out in a training step on a batch of \d+ x \d\d ", report["said"])
    assert "token_budget (now 8192)" in report["said"]
    assert report["kept"], "the checkpoint"
    assert report["again"] == "" and report["same"], "the same command goes on to the same weights"


def test_any_other_error_of_a_step_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match="size mismatch"), named_when_full("a step", (2, 3), "Lower it."):
        raise RuntimeError("size mismatch")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_each_kind_of_out_of_memory_is_named_with_the_shape(error: Exception) -> None:
    with (
        pytest.raises(TrainingError, match=r"a step on a batch of 2 x 3 .*Lower it\. Checkpoints are untouched"),
        named_when_full("a step", (2, 3), "Lower it."),
    ):
        raise error
