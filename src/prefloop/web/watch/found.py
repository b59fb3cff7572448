"""Finds run folders below the folders that somebody wants to watch.

A run's address is /runs/PLACE/NAME. PLACE is a hash of the folder that holds it, so that an address stays the same
between starts of the server. Folders are looked up in what was found: no address leads to another folder.
"""

from __future__ import annotations

import os
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from prefloop.record import RUNS

DEEPEST = 4  # folders below a watched one
FOLDERS = 20_000  # are looked into at most
LOOK_AGAIN_S = 2.0
_PARTS = ("manifest.json", "metrics.jsonl")
_NEVER = frozenset({"checkpoints", "best", "model", "node_modules", "__pycache__", "site-packages"})


@dataclass(frozen=True)
class Place:
    """A folder that holds runs: a project, or a folder of copied runs. title: the project's name, or the folder's."""

    key: str
    root: Path
    title: str


@dataclass(frozen=True)
class Found:
    """A run folder and where it was found."""

    place: Place
    path: Path

    @property
    def key(self) -> str:
        """How addresses name the run: PLACE/NAME."""
        return f"{self.place.key}/{self.path.name}"


class Folders:
    """Knows the runs below some folders, and looks again when asked after a while. Several threads may use it."""

    def __init__(self, roots: Sequence[Path], deepest: int = DEEPEST) -> None:
        self.roots = tuple(root.absolute() for root in roots)
        self._deepest = deepest
        self._at = -LOOK_AGAIN_S
        self._found: dict[str, Found] = {}

    def runs(self) -> list[Found]:
        """Return every run that is there now, in order of its folder's name within its place."""
        return list(self._look().values())

    def run(self, place: str, name: str) -> Found | None:
        """Return a run by its address; None where no such run was found."""
        return self._look().get(f"{place}/{name}")

    def _look(self) -> dict[str, Found]:
        if time.monotonic() - self._at >= LOOK_AGAIN_S:
            runs = (run for root in self.roots for run in _runs_below(root, self._deepest))
            self._found = {run.key: run for run in runs}
            self._at = time.monotonic()
        return self._found


def _runs_below(root: Path, deepest: int) -> Iterator[Found]:
    """Yield the runs in a folder and below, its own first. Links to folders are not followed."""
    left = FOLDERS
    waiting = [(root, 0)]
    places: dict[Path, Place] = {}
    while waiting and left:
        folder, depth = waiting.pop()
        left -= 1
        if any((folder / part).is_file() for part in _PARTS):
            holds = folder.parent.parent if folder.parent.name == RUNS else folder.parent
            yield Found(places.setdefault(holds, _place(holds)), folder)
        elif depth < deepest:
            waiting += [(inner, depth + 1) for inner in reversed(_inside(folder))]


def _inside(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            names = [e.name for e in entries if e.is_dir(follow_symlinks=False)]
    except OSError:
        return []
    return [folder / name for name in sorted(names) if not name.startswith(".") and name not in _NEVER]


def _place(root: Path) -> Place:
    key = sha256(str(root).encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return Place(key, root, _name(root) or root.name or str(root))


def _name(root: Path) -> str:
    """Return the name in a project's settings; "" where there are none, or they cannot be read."""
    try:
        settings = tomllib.loads((root / "prefloop.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    project = settings.get("project")
    return str(project.get("name", "")) if isinstance(project, dict) else ""
