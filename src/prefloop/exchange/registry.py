"""Finds the format of a file among all formats, and reads the file."""

from __future__ import annotations

import difflib
import shlex
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

from prefloop.errors import DataError
from prefloop.exchange import unused
from prefloop.exchange.base import BadRow, FieldLook, Format, Parsed, Record, RowError, printable, quoted
from prefloop.exchange.files.grouping import together
from prefloop.exchange.files.source import SourceRow, rows
from prefloop.exchange.formats import (
    arena,
    argilla,
    canonical,
    kto,
    label_studio,
    lists,
    oasst,
    pairs,
    prompts,
    rated,
    scored,
    sides,
    stepwise,
)
from prefloop.exchange.formats.transcripts import check_transcript
from prefloop.exchange.stringified import with_parsed_messages
from prefloop.exchange.values import representable
from prefloop.types import Demonstration, Item, Prompt, answer_key, digest

MAX_LINE_BYTES = 8_000_000
SNIFFED_ROWS = 50

# The first format that fits a record counts, so special ones stand before general ones.
_ALL: tuple[Format, ...] = (
    oasst.TREES,
    oasst.REPLIES,
    argilla.FORMAT,
    label_studio.FORMAT,
    *lists.LISTS,
    *sides.SIDES,
    arena.FORMAT,
    rated.HELPSTEER,
    stepwise.FORMAT,
    stepwise.PRM800K,
    stepwise.SHEPHERD,
    scored.PRISM,
    scored.SCORED,
    scored.MANY,
    canonical.FORMAT,
    pairs.TRANSCRIPTS,
    pairs.FORMAT,
    kto.FORMAT,
    rated.RATED,
    prompts.DEMONSTRATIONS,
    prompts.PROMPTS,
)
_BY_NAME = {format.name: format for format in _ALL}

FORMATS: dict[str, str] = {format.name: format.description for format in _ALL}


def sniff(path: Path, *, max_line_bytes: int = MAX_LINE_BYTES, ignore: Collection[str] = ()) -> str:
    """Return the name of the format that most of the first records have. Raises DataError if none fits."""
    first = list(islice(_rows(path, max_line_bytes), SNIFFED_ROWS))
    records = [_without(row.record, ignore) for row in first if isinstance(row, SourceRow)]
    votes = Counter(name for record in records if (name := _fitting(record)) is not None)
    if votes:
        return votes.most_common(1)[0][0]
    if records:
        names = ", ".join(sorted(map(str, records[0]))[:12])[:200]
        found = f"its records have the fields {names!a}, which no format here has"
    else:
        error = next(row for row in first if isinstance(row, RowError))
        found = f"none of its first {len(first)} rows is a JSON object (row {error.line}: {error.reason})"
        if path.suffix.lower() in (".csv", ".tsv", ".xlsx"):
            found += "; save tables as JSON lines or Parquet (pandas: to_json(orient='records', lines=True))"
    raise DataError(f"cannot tell what {path} is: {found}. Formats that can be read:\n{_listing()}")


def _fitting(record: Record) -> str | None:
    return next((format.name for format in _ALL if format.fits(record)), None)


def _listing() -> str:
    return "\n".join(f"  {name:21} {description}" for name, description in FORMATS.items())


def _named(name: str) -> Format:
    if name not in _BY_NAME:
        near = difflib.get_close_matches(name, _BY_NAME, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise DataError(f"there is no format {name!a}.{hint} Formats that can be read:\n{_listing()}")
    return _BY_NAME[name]


def read(
    path: Path, format: str | None = None, *, max_line_bytes: int = MAX_LINE_BYTES, ignore: Collection[str] = ()
) -> Iterator[Parsed]:
    """Yield the content of a file, record by record and in order.

    A record that cannot be used is a RowError in its place.

    Formats that spread a list over several rows give their lists after the last row of the file. Fields in `ignore` are
    metadata and nothing else. Raises DataError before the first record if the file cannot be opened, is empty, or has
    no known format. Raises DataError also at the first record with an unused field that looks like a label, a score or
    another answer; `check` finds such fields beforehand.
    """
    path = Path(path)
    chosen = _chosen(path, format, max_line_bytes, ignore)
    return _parsed(chosen, _used(path, _rows(path, max_line_bytes), chosen, ignore), max_line_bytes, ignore)


def check(
    path: Path, format: str | None = None, *, max_line_bytes: int = MAX_LINE_BYTES, ignore: Collection[str] = ()
) -> None:
    """Raise DataError if `read` would stop anywhere in the file, without parsing its content."""
    path = Path(path)
    chosen = _chosen(path, format, max_line_bytes, ignore)
    left: dict[str, int] = {}
    first: Record = {}
    for row in _rows(path, max_line_bytes):
        if isinstance(row, SourceRow):
            record = _without(row.record, ignore)
            for name in unused.lookalikes(record, chosen.uses(record), chosen.stops, ignore):
                first = first or record
                left.setdefault(name, row.line)
    if left:
        raise DataError(_unread(path, first, chosen, left))


def _chosen(path: Path, format: str | None, limit: int, ignore: Collection[str]) -> Format:
    """Return the format of a file. With `--as prompts`, answers in the file are left out."""
    if format is None:
        return _named(sniff(path, max_line_bytes=limit, ignore=ignore))
    chosen = _named(format)
    return replace(chosen, stops=chosen.stops - {FieldLook.ANSWER})


def _rows(path: Path, limit: int) -> Iterator[SourceRow | RowError]:
    """Return the rows of a file, with texts that spell out a message list replaced by it. Raises DataError at once."""
    return map(_spoken, rows(path, limit))


def _spoken(row: SourceRow | RowError) -> SourceRow | RowError:
    if isinstance(row, RowError):
        return row
    try:
        return replace(row, record=with_parsed_messages(row.record))
    except BadRow as error:
        return RowError(row.line, str(error), row.text)


def _used(
    path: Path, found: Iterable[SourceRow | RowError], format: Format, ignore: Collection[str]
) -> Iterator[SourceRow | RowError]:
    """Yield the rows of a file. Raises DataError at an unused field that should not be lost."""
    for row in found:
        if isinstance(row, SourceRow):
            record = _without(row.record, ignore)
            left = unused.lookalikes(record, format.uses(record), format.stops, ignore)
            if left:
                raise DataError(_unread(path, record, format, dict.fromkeys(left, row.line)))
        yield row


def _unread(path: Path, record: Record, format: Format, left: Mapping[str, int]) -> str:
    """Return the message about unused fields. `left` holds their names, with a row that has each."""
    shown = list(left)[:8]
    names = ", ".join(f"{quoted(name)} (row {left[name]:,})" for name in shown)
    more = f" and {len(left) - 8} more" if len(left) > 8 else ""
    fitting = [f.name for f in _ALL if f.fits(record) and not {*left} - {*f.uses(record)}]
    other = f" It could be read --as {' or '.join(fitting[:4])}." if fitting else ""
    flags = " ".join(f"--ignore {shlex.quote(printable(name))}" for name in shown)
    return (
        f"{path}: {format.name} does not read {names}{more}, which by name and value may be a label, a score or "
        f"another answer. Nothing was imported.{other} If the file is in another format, say so with --as; to go on "
        f"and keep as metadata what nobody reads (for prefloop run: [run] ignore): {flags}"
    )


def _without(record: Record, ignore: Collection[str]) -> Record:
    return {name: value for name, value in record.items() if name not in ignore} if ignore else record


def _parsed(
    format: Format, found: Iterable[SourceRow | RowError], limit: int, ignore: Collection[str]
) -> Iterator[Parsed]:
    seen: Counter[str] = Counter()
    lists: Iterable[list[SourceRow] | RowError] = ([row] if isinstance(row, SourceRow) else row for row in found)
    if format.group is not None:
        lists = together(found, format.group, limit)
    for rows_together in lists:
        if isinstance(rows_together, RowError):
            yield rows_together
            continue
        first = rows_together[0]
        hidden = {*ignore} & {*format.uses(first.record)} if ignore else set()
        kept = {name: first.record[name] for name in hidden if name in first.record}
        try:
            for result in format.parse([_without(row.record, hidden) for row in rows_together]):
                if isinstance(result, BadRow):
                    yield RowError(first.line, str(result), first.text)
                    continue
                check_transcript(result)
                record = representable(replace(_keeping(result, kept), row=first.line))
                yield _numbered(record, seen) if isinstance(record, Demonstration) else record
        except BadRow as error:
            yield RowError(first.line, str(error), first.text)


_Result = TypeVar("_Result", bound=Prompt | Demonstration | Item)


def _keeping(result: _Result, kept: Record) -> _Result:
    return replace(result, metadata={**result.metadata, **kept}) if kept else result


def _numbered(demonstration: Demonstration, seen: Counter[str]) -> Demonstration:
    """Return items with their row numbers, so that equal rows of one file stay separate."""
    key = digest(demonstration.prompt.id, answer_key(demonstration.text, demonstration.messages))
    seen[key] += 1
    return demonstration if seen[key] == 1 else replace(demonstration, ordinal=seen[key] - 1, id="")
