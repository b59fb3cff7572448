"""Holds the fixtures that every test may use."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chromium import ARGUMENTS, CHROMIUM

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


def pytest_configure(config: pytest.Config) -> None:
    """Let workers side by side compute on one thread each, unless a test says otherwise.

    Where there is no GPU, kernels for it run on the CPU.
    """
    if not Path("/dev/nvidiactl").exists():
        os.environ.setdefault("TRITON_INTERPRET", "1")
    if hasattr(config, "workerinput"):
        os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_finish() -> None:
    """Exclude what imports and collection made from garbage collection, because it lives to the end."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """Start one browser for all tests of a process, because playwright takes no second one beside it."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: prefloop[test]")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: these tests look at pages in a real browser")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of public data sets that lies beside the repository on developers' machines."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"{SHARED / 'data'} is not here: these tests need the public data sets")
    return SHARED / "data"


@pytest.fixture(scope="session")
def stories260k() -> Path:
    """Return a real pretrained checkpoint (260 k parameters, Llama architecture)."""
    folder = SHARED / "models" / "stories260k"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here: this test needs the pretrained checkpoint")
    return folder


@pytest.fixture
def gpu_kernels(monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the device on which kernels for GPUs run: a GPU, or else the CPU, where Triton interprets them."""
    pytest.importorskip("triton", reason="Triton is not installed: `pip install triton`")
    import torch

    from prefloop.kernels import gpu

    if torch.cuda.is_available():
        return "cuda"
    monkeypatch.setattr(gpu, "fits", lambda x: x.dtype in gpu.FLOATS)
    return "cpu"


# -- a project small enough to go round the loop in seconds ------------------------------------------------------------

COLOURS = ("red", "blue", "green", "black")
THINGS = ("cat", "hat", "box", "cup", "key", "bag", "car", "pen", "map", "fan")
TINY_SETTINGS = """
[project]
threads = 1

[model]
init = "scratch"
vocab_size = 300
hidden_size = 16
layers = 1
heads = 2
context = 128

[data]
heldout = 0.25

[sft]
epochs = 2
batch = 8
lr = 0.003
eval_every = 4
checkpoint_every = 4

[sample]
k = 3
max_tokens = 8

[crowd]
scorer = "length"
annotators = 4

[reward]
epochs = 2
batch = 8
lr = 0.003
normalise_prompts = 8
eval_every = 4
checkpoint_every = 4

[align]
steps = 4
max_tokens = 8
lr = 0.003
checkpoint_every = 1

[align.rollout]
prompts = 4

[align.evaluation]
eval_every = 2
eval_prompts = 8

[evaluate]
prompts = 8
max_tokens = 8
bootstrap = 100
"""


def make_tiny_project(folder: Path) -> Path:
    """Make settings, and 40 demonstrations in the store; nothing is trained yet."""
    from prefloop.config import load_config
    from prefloop.store import Store
    from prefloop.types import Demonstration, Prompt

    root = folder / "tiny"
    root.mkdir()
    (root / "prefloop.toml").write_text(TINY_SETTINGS)
    with Store.open(load_config(root / "prefloop.toml").project.store, root) as store:
        store.add(Demonstration(Prompt(f"Say {c} {t}."), f"The {t} is {c}.") for c in COLOURS for t in THINGS)
    return root


@pytest.fixture
def tiny_project(tmp_path: Path) -> Path:
    """Return an initialised scratch project of its own for each test."""
    return make_tiny_project(tmp_path)


@pytest.fixture(scope="session")
def make_tiny() -> Callable[[Path], Path]:
    """Return `make_tiny_project`, for fixtures that share one project between tests."""
    return make_tiny_project


@pytest.fixture(scope="session")
def tiny_with_reward(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny project that has been through sample, crowd and reward; whoever changes something copies it."""
    from prefloop.cli.main import run

    root = make_tiny_project(tmp_path_factory.mktemp("judged"))
    for verb in ("sample", "crowd", "reward"):
        assert run([verb, "-C", str(root), "-q"]) == 0
    return root


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a Hugging Face folder with a random Llama of 16 dimensions and a tokenizer with a chat template."""
    import torch

    from prefloop.config import Model
    from prefloop.models.scratch import make_scratch

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("model")
    settings = Model(init="scratch", vocab_size=300, hidden_size=16, layers=1, heads=2, context=128)
    make_scratch(folder, settings, [f"Say {c} {t}. The {t} is {c}." for c in COLOURS for t in THINGS], seed=0)
    return folder
