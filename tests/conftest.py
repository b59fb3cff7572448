"""Fixtures every test may use."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of public data sets that lies beside the repository on developers' machines."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"{SHARED / 'data'} is not here: these tests need the public data sets")
    return SHARED / "data"


@pytest.fixture(scope="session")
def stories260k() -> Path:
    """A real pretrained checkpoint (260 k parameters, Llama architecture)."""
    folder = SHARED / "models" / "stories260k"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here: this test needs the pretrained checkpoint")
    return folder
