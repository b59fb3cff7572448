"""A tiny policy that was trained for length only, to be evaluated by checks."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from prefloop.api.project import Project

MINE = """
def ends_in_stop(prompt, answer):
    return answer.rstrip().endswith(".")

def calm(prompt, answer):
    return max(len(word) for word in answer.split(" ")) < 6

calm.unit = "share"

def brief(prompt, answer):
    return -len(answer)

def fails(prompt, answer):
    raise LookupError("no such thing")
"""


@pytest.fixture(scope="session")
def trained(make_tiny: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project with a policy after a few steps of `align` for longer answers."""
    root = make_tiny(tmp_path_factory.mktemp("behaviour"))
    (root / "mine.py").write_text(MINE)
    with Project.open(root, quiet=True) as project:
        project.sft(epochs=20, eval_every=1000, checkpoint_every=1000)
        how = {"k": 4, "prompts": 8, "lr": 0.01, "eval_every": 20, "checkpoint_every": 100, "kl_budget": 1000.0}
        project.align("rloo", reward="length", steps=20, **how)
    return root


@pytest.fixture
def project(trained: Path, tmp_path: Path) -> Iterator[Project]:
    shutil.copytree(trained, tmp_path / "copy")
    with Project.open(tmp_path / "copy", quiet=True) as opened:
        yield opened
