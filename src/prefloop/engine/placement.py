"""Says where an engine's work is done. A stage hands it from the project to `engine.make`, and reads nothing of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from prefloop.config import Model
from prefloop.config_rollout import Rollouts


@dataclass(frozen=True)
class Placement:
    """device:  "cpu" or "cuda", of this process
    rollout: who samples
    root:    the project's folder, which holds published weights and the logs of servers
    model:   how the models were loaded, for servers that load them again
    offload: whether a frozen reference is in the CPU's memory between uses
    """

    device: str = "cpu"
    rollout: Rollouts = Rollouts()
    root: Path = Path()
    model: Model = Model()
    offload: bool = False
