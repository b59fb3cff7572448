"""Defines records of the store's own contents (counts, models, imports), with the standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

ModelKind = Literal["policy", "reward"]


@dataclass(frozen=True)
class Counts:
    """Says how many rows of each kind were added."""

    prompts: int = 0
    demonstrations: int = 0
    items: int = 0
    completions: int = 0
    rankings: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.prompts + other.prompts,
            self.demonstrations + other.demonstrations,
            self.items + other.items,
            self.completions + other.completions,
            self.rankings + other.rankings,
        )


@dataclass(frozen=True)
class ModelRow:
    """Describes one trained model.

    `path` is relative to the project; `snapshot_hash` names exactly what it was trained on.

    files: {name: SHA-256} of its folder when it was registered; None in rows that are older than this field.
    """

    version: str
    kind: ModelKind
    path: str
    parent: str | None = None
    run_id: str | None = None
    weights_sha256: str | None = None
    snapshot_hash: str | None = None
    criterion: str | None = None  # Only reward models have one.
    metrics: Mapping[str, float | None] = field(default_factory=dict, hash=False)
    files: Mapping[str, str] | None = field(default=None, hash=False)


@dataclass(frozen=True)
class ImportRow:
    """Describes one imported file: its format, what it added, and why its first bad rows were rejected."""

    name: str
    sha256: str
    format: str
    counts: Mapping[str, int]
    rejected: int
    reasons: tuple[str, ...]
    imported_at: str
    removed: int = 0  # It says how many of its records have been deleted since.
