"""Runs `prefloop import`, which reads any file of the field into the store, row by row. It loads no model."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from prefloop import exchange
from prefloop.errors import DataError
from prefloop.exchange import RowError, hub
from prefloop.project.project import Project
from prefloop.results import Imported, ImportedFile
from prefloop.store import Counts
from prefloop.store.origins import has_origins
from prefloop.types import Demonstration, Item, Prompt

REASONS = 100  # So many are kept; the others are only counted.
SHOWN = 10


def import_files(
    project: Project, paths: Sequence[Path | str], format: str | None = None, ignore: Collection[str] = ()
) -> Imported:
    """Import several files or hub data sets, in turn.

    Raises DataError at the first that holds nothing usable; earlier ones stay.
    """
    outcomes = [_import(project, path, format, ignore) for path in paths]
    return Imported(files=tuple(f for o in outcomes for f in o.files), skipped=all(o.skipped for o in outcomes))


def _import(project: Project, source: Path | str, format: str | None, ignore: Collection[str]) -> Imported:
    """Import a file, or `hf://owner/name:split`, which is loaded and then imported as a file."""
    if not str(source).startswith(hub.PREFIX):
        return import_file(project, Path(source), format, ignore)
    with TemporaryDirectory() as folder:
        outcome = import_file(project, hub.fetch(str(source), Path(folder)), format, ignore)
    return replace(outcome, files=tuple(replace(file, file=str(source)) for file in outcome.files))


def import_file(project: Project, path: Path, format: str | None = None, ignore: Collection[str] = ()) -> Imported:
    """Read a file into the store. What is there already adds nothing; a bad row is reported, never fatal.

    The fields in `ignore` are kept as metadata and mean nothing; the log of imports names them. Raises DataError where
    the file cannot be read, where not one of its rows can be used, and, before anything is written, where any row has a
    field that nobody reads and that looks like a label, a score or another answer.
    """
    how: dict[str, Any] = {"max_line_bytes": project.config.data.max_line_bytes, "ignore": ignore}
    records = exchange.read(path, format, **how)
    found = format or exchange.sniff(path, **how)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    told = f"{found}, ignoring {', '.join(sorted(ignore))}" if ignore else found
    known = [row for row in project.store.imports() if (row.sha256, row.format) == (sha256, told)]
    named: dict[str, Any] = {"file": str(path), "format": found, "ignored": tuple(sorted(ignore))}
    # With rejected rows it is read again, because the limit may have been raised; and with rows that were taken out
    # again.
    if known and not known[-1].rejected and not known[-1].removed and has_origins(project.store, sha256):
        project.say(f"{path}: already imported")
        nothing = ImportedFile(**named, **asdict(Counts()), records=0, rejected=0, reasons=())
        return Imported(files=(nothing,), skipped=True)
    exchange.check(path, format, **how)
    project.say(f"{path}: reading it as {told}")
    seen, rejected = _Seen(), list[str]()
    with project.lock(), project.progress(None, f"import {path.name}: rows") as bar:
        added = project.store.add(_usable(records, seen, rejected, bar), file=sha256)
        if not known or any(asdict(added).values()):
            project.store.record_import(path.name, sha256, told, added, rejected)
    if seen.beside:
        listed = ", ".join(f"{name} ({count})" for name, count in seen.beside.most_common())
        project.say(f"  {path.name}: kept with the messages, for the chat template: {listed}")
    for reason in rejected[:SHOWN]:
        project.say(f"  {path.name} {reason}")
    if len(rejected) > SHOWN:
        project.say(f"  ... and {len(rejected) - SHOWN} more rows")
    if not seen.records:
        raise DataError(
            f"{path}: none of its {len(rejected)} rows can be used as {found}. First: {rejected[0]}. If it is in "
            f"another format, say so with --as: {', '.join(exchange.FORMATS)}."
        )
    counts = asdict(added)
    imported = ImportedFile(
        **named,
        **counts,
        records=seen.records,
        rejected=len(rejected),
        reasons=tuple(rejected[:REASONS]),
        beside=dict(seen.beside) or None,
    )
    return Imported(files=(imported,), skipped=not any(counts.values()))


class _Seen:
    """Counts how many usable records have gone by, and in how many the messages hold more than text.

    An example is {"tool_calls": 3}.
    """

    def __init__(self) -> None:
        self.records = 0
        self.beside: Counter[str] = Counter()

    def add(self, record: Prompt | Demonstration | Item) -> None:
        self.records += 1
        prompt = record if isinstance(record, Prompt) else record.prompt
        answers = record.completions if isinstance(record, Item) else (record,)
        said = prompt.content if isinstance(prompt.content, tuple) else ()
        turns = (*said, *(turn for answer in answers if not isinstance(answer, Prompt) for turn in answer.messages))
        names = {name for turn in turns for name in turn.extra}
        self.beside.update(names | {"tools"} if prompt.tools else names)


def _usable(
    records: Iterator[exchange.Parsed], seen: _Seen, rejected: list[str], bar: Any
) -> Iterator[Prompt | Demonstration | Item]:
    for record in records:
        bar.update()
        if isinstance(record, RowError):
            # All are counted and few are kept, because a hostile file may have millions.
            rejected.append(f"row {record.line}: {record.reason}" if len(rejected) < REASONS else "")
        else:
            seen.add(record)
            yield record
