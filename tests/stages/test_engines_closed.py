"""Every stage closes the engines that it opens, whether it comes to its end or not: an engine may hold processes."""

from __future__ import annotations

import ast
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from resumable import build

import prefloop
from prefloop.engine.scripted import ScriptedEngine
from prefloop.project.project import Project
from prefloop.stages import evaluate, sample, sft, train_offline, train_reward
from prefloop.stages.align import align
from prefloop.stages.doctor import invariants
from prefloop.training import policy_setup, reward_scores

ONLINE = ["align.steps=2", "align.rollout.staleness=1", "align.lr=1e-2"]
ONLINE += ["align.evaluation.eval_every=9", "align.checkpoint_every=9"]
DPO = ["align.algorithm=dpo", "align.lists=4", "align.lr=0.01"]  # its last step is its result, better or not
STAGES: dict[str, tuple[Callable[[Project], Any], list[Any], list[str]]] = {
    "sft": (sft.sft, [sft], []),
    "sample": (sample.sample, [sample], ["sample.k=2", "sample.max_tokens=4"]),
    "reward": (train_reward.reward, [train_reward, reward_scores], []),
    "ppo": (align, [policy_setup], [*ONLINE, "align.algorithm=ppo"]),
    "dpo": (align, [train_offline], DPO),
    "evaluate": (evaluate.evaluate, [evaluate] * 3, ["evaluate.max_tokens=4"]),
    "doctor": (lambda project: list(invariants.invariants(project)), [invariants] * 4, []),
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("closed") / "project"
    build(root, with_reward=True)
    with Project.open(root, DPO, quiet=True) as project:
        align(project)
    return root


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[ScriptedEngine]]:
    """The engines that the stages open, scripted: nothing else of the stages is another."""
    opened: list[ScriptedEngine] = []

    def make(models: Any, tokenization: Any, seed: int, placement: Any = "cpu", training: Any = None, **_: Any) -> Any:
        opened.append(ScriptedEngine(training=training))
        return opened[-1]

    for module in [module for _, modules, _ in STAGES.values() for module in modules]:
        monkeypatch.setattr(module, "make_engine", make)
    yield opened


def test_every_function_that_makes_an_engine_closes_it() -> None:
    """Those of the demo and of the Python API too. `set_up` alone gives it to its caller, which is a stage above."""
    source, makes = Path(prefloop.__file__).parent, set()
    for path in sorted(source.rglob("*.py")):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef):
                called = {
                    node.func.id
                    for node in ast.walk(function)
                    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
                }
                if "make_engine" in called:
                    makes.add(path.stem)
                    assert "closing" in called or function.name == "set_up", f"{path}: {function.name}"
    assert {"sft", "sample", "measure", "best_of", "models", "invariants", "policy_setup"} <= makes


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_closes_each_engine_once_and_asks_nothing_of_it_afterwards(
    name: str, built: Path, tmp_path: Path, engines: list[ScriptedEngine]
) -> None:
    stage, modules, settings = STAGES[name]
    root = shutil.copytree(built, tmp_path / "project")
    with Project.open(root, [*settings, "project.seed=4"], quiet=True) as project:
        stage(project)
    assert len(engines) == len(modules), "otherwise the stage did nothing, or opened others"
    for engine in engines:
        assert "close" not in engine.calls[:-1] and engine.calls[-1] == "close"


@pytest.mark.parametrize("name", ["sft", "sample", "reward", "ppo", "dpo", "evaluate"])
def test_a_stage_that_fails_closes_its_engine_too(
    name: str, built: Path, tmp_path: Path, engines: list[ScriptedEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(Exception):
        pass

    def fail(*_: Any) -> Any:
        raise Broken

    monkeypatch.setattr(ScriptedEngine, "generate" if name in ("sample", "evaluate") else "step", fail)
    stage, _, settings = STAGES[name]
    root = shutil.copytree(built, tmp_path / "project")
    with Project.open(root, [*settings, "project.seed=4"], quiet=True) as project, pytest.raises(Broken):
        stage(project)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]
    assert engines and all("close" not in engine.calls[:-1] and engine.calls[-1] == "close" for engine in engines)
