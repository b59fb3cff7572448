"""The records that a diagnosis reads: plain values of runs, people and data. Nothing here knows SQL or a model.

A record is made from files that may be damaged: what cannot be read is left out and named in `problems`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Series:
    """Holds the finite values of one metric, in order of step. steps [N] int, values [N]."""

    steps: NDArray[np.int64]
    values: Array

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def first(self) -> float:
        """Return the median of the first steps: a fifth of them, three at least."""
        return float(np.median(self.values[: self.head]))

    @property
    def last(self) -> float:
        """Return the median of the last quarter, two values at least."""
        return float(np.median(self.values[-max(2, len(self) // 4) :]))

    @property
    def head(self) -> int:
        return min(len(self), max(3, len(self) // 5))

    def since(self, outside: NDArray[np.bool_]) -> int | None:
        """Return the step from which on most of the values are outside; None where none is.

        outside [N]: which values are outside. One value that is outside among healthy ones begins nothing.
        """
        if len(outside) and np.mean(outside[-max(2, len(self) // 4) :]) <= 0.5:
            return None  # the last values are well again
        for place in np.flatnonzero(outside):
            if np.mean(outside[place:]) > 0.5:
                return int(self.steps[place])
        return None


@dataclass(frozen=True)
class Sample:
    """Holds one answer of the policy at a step. kl: nats a sequence; None where the reference was not asked."""

    step: int
    prompt: str
    text: str
    reward: float
    length: int
    ended: bool
    kl: float | None = None


@dataclass(frozen=True)
class Annotator:
    """Holds one person or simulated annotator. weight: reliability, 1 is typical, 0 a coin, below 0 inverted.

    position: how far the order of display decides, in logits; None where it was not recorded.
    agreement: share of pairs on which others agree with them; None where nobody else ranked the same.
    longer: share of ranked pairs where they preferred the longer answer.
    """

    name: str
    rankings: int
    weight: float | None = None
    weight_se: float | None = None
    position: float | None = None
    position_se: float | None = None
    agreement: float | None = None
    longer: float | None = None
    pairs: int = 0


@dataclass(frozen=True)
class Data:
    """Holds what the store's rows look like. Shares are of training prompts.

    leaked:     held-out prompts whose text, case and white space aside, is also a training prompt.
    near:       held-out prompts that share most of their word triples with a training prompt.
    duplicates: training prompts whose text another training prompt has.
    """

    train: int = 0
    heldout: int = 0
    leaked: int = 0
    near: int = 0
    duplicates: int = 0
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunRecord:
    """Holds one run. `metrics`: columns by name.  checks: invariants tried on the run's own models, see `invariants`.

    people: the annotators whose rankings the run has learnt from.  judges: the result of `reward` for each reward
    model that an `align` run was trained against, by criterion.  ends: whether the policy that the run starts from was
    trained to end its answers, or has been seen to; None where the run does not say.
    """

    name: str
    stage: str
    status: str = "done"
    round: int = 0
    config: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Any] = field(default_factory=dict)
    manifest: Mapping[str, Any] = field(default_factory=dict)
    result: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Series] = field(default_factory=dict)
    seconds: Mapping[str, Series] = field(default_factory=dict)
    checks: Sequence[Mapping[str, str]] = ()
    samples: Sequence[Sample] = ()
    people: Sequence[Annotator] = ()
    data: Data | None = None
    judges: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    ends: bool | None = None
    problems: Sequence[str] = ()

    def series(self, name: str) -> Series | None:
        """Return the finite values of a metric; None where the run has logged none."""
        found = self.metrics.get(name)
        return found if found is not None and len(found) else None

    def setting(self, *path: str, default: Any = None) -> Any:
        """Return a setting of the run by its path, such as ("align", "lr")."""
        value: Any = self.config
        for key in path:
            if not isinstance(value, Mapping) or key not in value:
                return default
            value = value[key]
        return value

    def align(self, name: str, default: Any = None) -> Any:
        """Return a setting of `[align]`, whichever of its sections holds it."""
        section = self.config.get("align", {})
        for part in (section, *(v for v in section.values() if isinstance(v, Mapping))):
            if name in part:
                return part[name]
        return default

    def option(self, name: str, default: Any = None) -> Any:
        """Return an option of the run's algorithm, from the manifest; the default where the settings do not say."""
        return self.setting("algorithms", str(self.align("algorithm")), name, default=default)

    @property
    def steps(self) -> int:
        """Return the last step that was logged."""
        return last_step(self.metrics)


def last_step(metrics: Mapping[str, Series]) -> int:
    """Return the last step that any metric was logged at; 0 where there is none."""
    return max((int(s.steps[-1]) for s in metrics.values() if len(s)), default=0)


def read_series(path: Path) -> tuple[dict[str, Series], list[str]]:
    """Return (metric -> its finite values, problems) of a metrics.jsonl or timings.jsonl.

    A torn or foreign line is left out and named. Of a step that stands twice, the later line counts. A value that is
    no finite number is left out; how many are stands in the series `not_finite`, by step, where there are any.
    """
    if not path.is_file():
        return {}, []
    rows: dict[int, Mapping[str, Any]] = {}
    problems = []
    for number, text in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        try:
            row = json.loads(text)
            step = int(row["step"])
        except (ValueError, TypeError, KeyError):
            problems.append(f"{path.name}, line {number} is not a line of metrics and is left out")
            continue
        rows[step] = row
    found: dict[str, list[tuple[int, float]]] = {}
    broken: dict[int, int] = {}
    for step in sorted(rows):
        for name, value in rows[step].items():
            if name == "step":
                continue
            if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
                found.setdefault(name, []).append((step, float(value)))
            else:
                broken[step] = broken.get(step, 0) + 1
    if broken:
        found["not_finite"] = [(step, float(broken.get(step, 0))) for step in sorted(rows)]
    return {name: series_of(values) for name, values in found.items()}, problems


def series_of(points: Sequence[tuple[int, float]]) -> Series:
    """Return a series of (step, value) pairs in order of step."""
    return Series(
        np.array([step for step, _ in points], dtype=np.int64), np.array([v for _, v in points], dtype=np.float64)
    )
