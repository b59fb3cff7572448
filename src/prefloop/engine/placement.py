"""Says where an engine's work is done. A stage hands it from the project to `engine.make`, and reads nothing of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Placement:
    """device: "cpu" or "cuda", of this process"""

    device: str = "cpu"
