"""What a tracker is, and what it is told of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class Tracked:
    """A run as trackers name it.

    project, name: under which it is filed.  stage: sft, reward or align.  config: its settings, without the store's.
    folder: where local files of all trackers go.  id: the same for this run in every process that goes on with it.
    known: the id by which the tracker itself knows the run; None where it does not know it yet.
    """

    project: str
    name: str
    stage: str
    config: Mapping[str, Any]
    folder: Path
    id: str
    known: str | None = None


class Tracker(Protocol):
    """One run in one tracker."""

    @property
    def known(self) -> str:
        """The id by which the tracker knows the run."""
        ...

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write one step. It is called once for each step, in order."""
        ...

    def close(self, done: bool) -> None:
        """Write what is left. done: whether the run ended by itself."""
        ...


def flat(config: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Yield (dotted key, value) of nested settings, without those that are not set."""
    for name, value in config.items():
        key = f"{path}.{name}" if path else str(name)
        if isinstance(value, Mapping):
            yield from flat(value, key)
        elif value is not None and value != ():
            yield key, str(value)
