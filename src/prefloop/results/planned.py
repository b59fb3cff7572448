"""The result of `plan`: what a run will hold, compute and take, before it begins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from prefloop.results.base import Outcome


@dataclass(frozen=True)
class MemoryPart:
    """Bytes of one kind that one role holds: weights, gradients, optimiser, activations, caches ..."""

    role: str
    what: str
    bytes: float


@dataclass(frozen=True)
class PhaseMemory:
    """What a phase of a step holds: sampling, scoring or learning."""

    phase: str
    parts: tuple[MemoryPart, ...]

    @property
    def total(self) -> float:
        """All of it, in bytes."""
        return sum(part.bytes for part in self.parts)


@dataclass(frozen=True)
class StagePlan:
    """What one stage will do. peak: bytes of the phase that holds most, on the device that holds most.

    tokens: of texts that are learnt from, in all steps;  sampled: those that are drawn
    budget: tokens of one pass;  checkpoints: bytes on the disk, of the two that are kept
    hours: None where no speed was measured;  notes: what the plan had to assume
    """

    name: str
    method: str
    steps: int
    tokens: int
    sampled: int
    budget: int
    trained: int
    phases: tuple[PhaseMemory, ...]
    peak: float
    fits: bool
    checkpoints: float
    hours: float | None
    notes: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()


@dataclass(frozen=True)
class Placed:
    """How many devices of this size would hold the run, and how. full, lora: bytes on the device that holds most.

    how: which of them learn and which sample;  hours: with the adapter or without, as the settings say
    """

    devices: int
    how: str
    full: float
    lora: float
    full_fits: bool
    lora_fits: bool
    hours: float | None


@dataclass(frozen=True)
class Speed:
    """What was measured here, in operations a second. rows: texts that grew at a time."""

    learning: float
    scoring: float
    sampling: float
    rows: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Planned(Outcome):
    """What the stages of a project will need. memory: bytes of each device.

    placements: of the stage that needs most, on 1, 2, 8 and 16 devices
    """

    stage: ClassVar[str] = "plan"

    model: str
    parameters: int
    layers: int
    hidden: int
    vocabulary: int
    dtype: str
    adapter: str
    device: str
    devices: int
    memory: float
    computed_by: str
    stages: tuple[StagePlan, ...]
    placements: tuple[Placed, ...]
    speed: Speed | None = None

    @property
    def fits(self) -> bool:
        """Whether every stage fits into the memory of a device."""
        return all(one.fits for one in self.stages)
