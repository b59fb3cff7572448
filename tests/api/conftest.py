"""Holds what tests of the Python API share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefloop import known_algorithms

SOURCE = Path(__file__).resolve().parents[2] / "src"


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """Return the environment for programs in a process of their own."""
    return {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    """Forget what a test registers after it."""
    yield
    known_algorithms.registered.clear()
