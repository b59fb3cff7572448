"""Checks the machine: versions, cores, memory, disk, SQLite."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from prefloop.stages.doctor.base import Check
from prefloop.store.connections.database import sqlite_warnings

# These are the lower ends of pyproject.toml's ranges; a test holds them equal.
NEEDS = {
    "python": "3.11",
    "torch": "2.6",
    "transformers": "5.0",
    "safetensors": "0.5",
    "tokenizers": "0.21",
    "numpy": "1.26",
    "scipy": "1.11",
    "pydantic": "2.7",
    "click": "8.1",
    "sqlalchemy": "2.0.30",
    "alembic": "1.13",
    "pyarrow": "15",
}
LOW_MEMORY_GB, LOW_DISK_GB = 2.0, 2.0


def machine(folder: Path) -> Iterator[Check]:
    """Check versions, cores, memory, disk and SQLite."""
    yield _versions()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = _memory_gb()
    if memory is None:
        yield Check("processor", "ok", f"{cores} cores; memory unknown")
    else:
        low = memory < LOW_MEMORY_GB
        advice = "small models only: lower batch, token_budget and max_tokens" if low else ""
        yield Check("processor", "warn" if low else "ok", f"{cores} cores, {memory:.1f} GB memory", advice)
    free = shutil.disk_usage(folder if folder.exists() else Path.cwd()).free / 1e9
    low = free < LOW_DISK_GB
    advice = "checkpoints take about 12 bytes a parameter, twice: free some space" if low else ""
    yield Check("disk", "warn" if low else "ok", f"{free:.1f} GB free at {folder}", advice)
    warnings = sqlite_warnings(sqlite3.sqlite_version_info, "wal")
    yield Check("sqlite", "warn" if warnings else "ok", "; ".join(warnings) or f"SQLite {sqlite3.sqlite_version}")


def _versions() -> Check:
    found, problems = [], []
    for name, least in NEEDS.items():
        try:
            version = platform.python_version() if name == "python" else metadata.version(name)
        except metadata.PackageNotFoundError:
            problems.append(f"{name} is not installed")
            continue
        if _numbers(version) < _numbers(least):
            problems.append(f"{name} {version} is older than {least}")
        elif name in ("python", "torch", "transformers"):
            found.append(f"{name} {version}")
    advice = f"{sys.executable} -m pip install --upgrade prefloop"
    return (
        Check("versions", "fail", "; ".join(problems), advice)
        if problems
        else Check("versions", "ok", ", ".join(found))
    )


def _numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a version: (2, 6, 0) of "2.6.0+cpu"."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def _memory_gb() -> float | None:
    """Return the memory that this process may use: the machine's, or the limit of its container."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
    limit = Path("/sys/fs/cgroup/memory.max")
    with suppress(OSError, ValueError):  # no such file, or "max"
        total = min(total, int(limit.read_text()))
    return total / 1e9
