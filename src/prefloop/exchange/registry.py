"""All formats, which of them a file is in, and reading it."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

from prefloop.errors import DataError
from prefloop.exchange import argilla, canonical, kto, label_studio, lists, oasst, pairs, prompts
from prefloop.exchange.base import BadRow, Format, Parsed, Record, RowError
from prefloop.exchange.source import Row, rows
from prefloop.types import Demonstration, digest

MAX_LINE_BYTES = 8_000_000
SNIFFED_ROWS = 50

# the first format that fits a record counts: special ones stand before general ones
_ALL: tuple[Format, ...] = (
    oasst.TREES,
    oasst.REPLIES,
    argilla.FORMAT,
    label_studio.FORMAT,
    *lists.LISTS,
    canonical.FORMAT,
    pairs.TRANSCRIPTS,
    pairs.FORMAT,
    kto.FORMAT,
    prompts.DEMONSTRATIONS,
    prompts.PROMPTS,
)
_BY_NAME = {format.name: format for format in _ALL}

FORMATS: dict[str, str] = {format.name: format.description for format in _ALL}


def sniff(path: Path, *, max_line_bytes: int = MAX_LINE_BYTES) -> str:
    """The name of the format most of the first records are in. Raises DataError if none fits."""
    first = list(islice(rows(path, max_line_bytes), SNIFFED_ROWS))
    records = [row.record for row in first if isinstance(row, Row)]
    votes = Counter(name for record in records if (name := _fitting(record)) is not None)
    if votes:
        return votes.most_common(1)[0][0]
    if records:
        names = ", ".join(sorted(map(str, records[0]))[:12])[:200]
        found = f"its records have the fields {names!a}, which no format here has"
    else:
        error = next(row for row in first if isinstance(row, RowError))
        found = f"none of its first {len(first)} rows is a JSON object (row {error.line}: {error.reason})"
    raise DataError(f"cannot tell what {path} is: {found}. Formats that can be read:\n{_listing()}")


def _fitting(record: Record) -> str | None:
    return next((format.name for format in _ALL if format.fits(record)), None)


def _listing() -> str:
    return "\n".join(f"  {name:15} {description}" for name, description in FORMATS.items())


def read(path: Path, format: str | None = None, *, max_line_bytes: int = MAX_LINE_BYTES) -> Iterator[Parsed]:
    """What a file says, record by record and in order; a record that cannot be used is a RowError in its place.

    Raises DataError at once, before the first record, if the file cannot be opened, is empty, or is of no known format.
    """
    path = Path(path)
    if format is not None and format not in _BY_NAME:
        near = difflib.get_close_matches(format, _BY_NAME, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise DataError(f"there is no format {format!a}.{hint} Formats that can be read:\n{_listing()}")
    chosen = _BY_NAME[format or sniff(path, max_line_bytes=max_line_bytes)]
    return _parsed(chosen, rows(path, max_line_bytes))


def _parsed(format: Format, found: Iterable[Row | RowError]) -> Iterator[Parsed]:
    seen: Counter[str] = Counter()
    for rows_together in _grouped(format, found):
        if isinstance(rows_together, RowError):
            yield rows_together
            continue
        first = rows_together[0]
        try:
            for result in format.parse([row.record for row in rows_together]):
                if isinstance(result, BadRow):
                    yield RowError(first.line, str(result), first.text)
                elif isinstance(result, Demonstration):
                    yield _numbered(result, seen)
                else:
                    yield result
        except BadRow as error:
            yield RowError(first.line, str(error), first.text)


def _grouped(format: Format, found: Iterable[Row | RowError]) -> Iterator[list[Row] | RowError]:
    """Rows one by one or, for formats that need it, with their neighbours of the same key."""
    together: list[Row] = []
    for row in found:
        if isinstance(row, RowError):
            yield row
        elif format.group is None:
            yield [row]
        else:
            if together and format.group(together[0].record) != format.group(row.record):
                yield together
                together = []
            together.append(row)
    if together:
        yield together


def _numbered(demonstration: Demonstration, seen: Counter[str]) -> Demonstration:
    """Equal rows of one file stay as many as they are."""
    key = digest(demonstration.prompt.id, demonstration.text)
    seen[key] += 1
    return demonstration if seen[key] == 1 else replace(demonstration, ordinal=seen[key] - 1, id="")
