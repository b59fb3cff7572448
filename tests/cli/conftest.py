"""Runs the command line as a function: arguments go in; exit code, standard output and standard error come out."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from prefloop.cli.main import run

SOURCE = Path(__file__).resolve().parents[2] / "src"


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """Return the result. It fails where standard output is anything else than one JSON object."""
        value = json.loads(self.out)
        assert isinstance(value, dict)
        return value


@pytest.fixture
def prefloop(capfd: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Return a function that runs a command. capfd, unlike capsys, sees what native libraries print too."""

    def call(*argv: object) -> Said:
        capfd.readouterr()
        code = run([str(a) for a in argv])
        sys.stdout.flush()
        out, err = capfd.readouterr()
        return Said(code, out, err)

    return call


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """Return the environment for commands in a process of their own."""
    return {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
