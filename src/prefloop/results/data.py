"""Results of stages that move data, and of those in which lists are sampled and ranked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from prefloop.results.base import Outcome, Refused, flat

if TYPE_CHECKING:
    from prefloop.labels.annotators import AnnotatorReport


@dataclass(frozen=True, kw_only=True)
class Created(Outcome):
    """A new project. model: its path, a hub id (then `hub` is true), or "scratch"."""

    stage: ClassVar[str] = "init"

    project: str
    config: str
    model: str
    hub: bool


@dataclass(frozen=True, kw_only=True)
class ImportedFile:
    """What one file added to the store. records: rows that could be used; beside: {what messages hold beside text: n}.

    ignored: fields that nobody reads, and that the caller says may be left alone.
    """

    file: str
    format: str
    ignored: tuple[str, ...]
    prompts: int
    demonstrations: int
    items: int
    completions: int
    rankings: int
    records: int
    rejected: int
    reasons: tuple[str, ...]
    beside: Mapping[str, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Imported(Outcome):
    """What one or several files added to the store, all together and by file."""

    stage: ClassVar[str] = "import"

    files: tuple[ImportedFile, ...]

    @property
    def prompts(self) -> int:
        return sum(file.prompts for file in self.files)

    @property
    def demonstrations(self) -> int:
        return sum(file.demonstrations for file in self.files)

    @property
    def items(self) -> int:
        return sum(file.items for file in self.files)

    @property
    def completions(self) -> int:
        return sum(file.completions for file in self.files)

    @property
    def rankings(self) -> int:
        return sum(file.rankings for file in self.files)

    @property
    def rejected(self) -> int:
        """Rows that could not be used."""
        return sum(file.rejected for file in self.files)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why rows could not be used, by row."""
        return tuple(reason for file in self.files for reason in file.reasons)

    def figures(self) -> dict[str, Any]:
        """One file stands for itself; several are in a list."""
        found = super().figures()
        return found["files"][0] if len(self.files) == 1 else found


@dataclass(frozen=True)
class LearntModel:
    """A model that has learnt from rows that were removed.

    through: the model that it started from, where only that one had.
    """

    version: str
    kind: str
    run: str | None
    through: str | None


@dataclass(frozen=True, kw_only=True)
class Removed(Outcome):
    """What was removed; what would be, where `removed` is false. rows: the first, by file and row.

    kept: records that stay, since another file holds them too.
    """

    stage: ClassVar[str] = "remove"

    removed: bool
    prompts: int
    demonstrations: int
    items: int
    sampled_items: int
    rankings: int
    rankings_by_people: int
    rollouts: int
    kept: int
    rows: tuple[str, ...]
    models: tuple[LearntModel, ...]


@dataclass(frozen=True, kw_only=True)
class Sampled(Outcome):
    """Lists of completions in the store, to be ranked. policy: whose they are.

    ended: the share of completions that ended by themselves; None where nothing was drawn now.
    mean_tokens: None also where an endpoint does not count them.
    endpoints: where the model that gave them was asked, if it is not the project's.
    """

    stage: ClassVar[str] = "sample"

    round: int
    starts_round: bool
    policy: str
    prompts: int
    completions: int
    drawn_now: int
    near_duplicates: int
    ended: float | None
    mean_tokens: float | None
    endpoints: tuple[str, ...] | None = None
    left_out: Refused | None = flat()


@dataclass(frozen=True, kw_only=True)
class CrowdRanked(Outcome):
    """Rankings that simulated people gave. items: how many lists were ranked now; with_ties: the share of rankings."""

    stage: ClassVar[str] = "crowd"

    simulated: bool
    scorer: str
    criterion: str
    items: int
    rankings: int
    annotators: int
    with_ties: float


@dataclass(frozen=True, kw_only=True)
class FunctionRanked(Outcome):
    """Rankings that a function gave. code: the hash of its source; failed: lists on which it failed, with reasons."""

    stage: ClassVar[str] = "annotate_with"

    annotator: str
    criterion: str
    code: str
    items: int
    rankings: int
    skipped_items: int
    failed: int
    reasons: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class PeopleRanked(Outcome):
    """Rankings that people gave, of as many as were wanted."""

    stage: ClassVar[str] = "annotate"

    round: int
    criterion: str
    simulated: bool
    items: int
    rankings: int
    wanted: int
    left_open: int
    discarded: int


@dataclass(frozen=True, kw_only=True)
class Prioritised(Outcome):
    """Lists in the order in which people should rank them. measure: "disagreement" of the models, or "entropy"."""

    stage: ClassVar[str] = "prioritise"

    criterion: str
    models: tuple[str, ...]
    measure: str
    items: int
    mean: float | None = None
    largest: float | None = None
    left_out: Refused | None = flat()


@dataclass(frozen=True, kw_only=True)
class Agreed(Outcome):
    """What rankings say about the people who gave them, by criterion.

    file, rejected, reasons: where a file was read; reasons say why rows could not be used.
    """

    stage: ClassVar[str] = "agreement"

    file: str | None = None
    rejected: int | None = None
    reasons: tuple[str, ...] | None = None
    criteria: Mapping[str, AnnotatorReport]


@dataclass(frozen=True)
class ExportedModel:
    """A model that was written to a folder."""

    version: str
    criterion: str | None
    round: float | None
    folder: str


@dataclass(frozen=True, kw_only=True)
class Exported(Outcome):
    """What was written, and where. models and pushed are of models, the rest of one file of data.

    pushed: the address on the hub; sha256: the hash of the file; mended: rows with surrogates, which no file can hold.
    """

    stage: ClassVar[str] = "export"

    what: str
    to: Path
    models: tuple[ExportedModel, ...] | None = None
    pushed: str | None = None
    rows: int | None = None
    bytes: int | None = None
    sha256: str | None = None
    format: str | None = None
    mended: int | None = None
    schema: int | None = None


@dataclass(frozen=True, kw_only=True)
class BackedUp(Outcome):
    """A backup. rows: {table: how many}; files: how many there are, with `bytes` together."""

    stage: ClassVar[str] = "backup"

    folder: str
    rankings: int
    rows: Mapping[str, int]
    files: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Restored(Outcome):
    """A project that was made from a backup."""

    stage: ClassVar[str] = "restore"

    project: str
    source: str = field(metadata={"key": "from"})
    made_at: str
    rankings: int
    rows: Mapping[str, int]
