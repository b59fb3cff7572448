"""Reads the JSON objects of a file, one at a time: lines, arrays or Parquet; plain, gzip, xz or bzip2.

The kind of a file is recognised by its first bytes, never by its name. A record that is too long, too deep, not JSON or
not valid text becomes a `RowError`. Only a file that cannot be opened at all is a `DataError`.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from prefloop.errors import DataError
from prefloop.exchange.base import SHOWN_CHARACTERS, BadRow, Record, RowError, printable
from prefloop.exchange.files.cut import PEEK_BYTES, Endless, elements_of, lines_of
from prefloop.exchange.files.json_values import MAX_DEPTH, checked, parse_json

MAX_FIELDS = 5_000  # A record may have so many fields; each kind is recognised by its name.
BOM = b"\xef\xbb\xbf"
MANY_BAD = 100_000

# A compressed file that ends early or is damaged fails while it is read, not when it is opened.
DAMAGED = (EOFError, OSError, zlib.error, lzma.LZMAError)


@dataclass(frozen=True)
class SourceRow:
    """Holds one record, its line, and its text."""

    line: int
    record: Record
    text: str


def rows(path: Path, max_line_bytes: int) -> Iterator[SourceRow | RowError]:
    """Yield every record of a file, in order.

    Raises DataError at once if the file cannot be opened or holds nothing.
    """
    start = _check(path)
    found = (
        _parquet_rows(path, max_line_bytes) if start.startswith(b"PAR1") else _json_rows(path, start, max_line_bytes)
    )
    first = next(found, None)
    if first is None:
        raise DataError(f"{path} holds no records. Give a file with one JSON object a line, a JSON array, or Parquet.")
    return _until_hopeless(chain([first], found))


def _until_hopeless(found: Iterator[SourceRow | RowError]) -> Iterator[SourceRow | RowError]:
    """Yield the rows, until too many in succession are not records: a hostile file may have millions."""
    bad = 0
    for row in found:
        yield row
        bad = bad + 1 if isinstance(row, RowError) else 0
        if bad == MANY_BAD:
            yield RowError(row.line + 1, f"{MANY_BAD:,} rows in succession cannot be used; nothing after them was read")
            return


def _check(path: Path) -> bytes:
    """Return the first bytes of a regular, readable, non-empty file. Raises DataError for anything else."""
    try:
        if path.is_dir():
            raise DataError(f"{path} is a folder. Give the files in it, one by one.")
        if not path.exists():
            raise DataError(f"{path} does not exist. Check the spelling and the folder you are in.")
        if not path.is_file():
            raise DataError(f"{path} is not a regular file. Save the data to a file first.")
        with path.open("rb") as file:
            start = file.read(8)
    except (OSError, ValueError) as error:  # ValueError is raised for a NUL in the name.
        raise DataError(
            f"cannot read {printable(str(path), 300)}: {error}. Check the name and its permissions."
        ) from None
    if not start:
        raise DataError(f"{path} is empty. Was the download or the export cut short?")
    _refuse_other(path, start)
    return start


OTHER = {
    b"PK\x03\x04": "a zip archive, or a spreadsheet (.xlsx): unpack it, or save the sheet as JSON lines or Parquet",
    b"(\xb5/\xfd": "compressed with zstd: unpack it (zstd -d), or compress it with gzip or xz",
    b"\xff\xfe": "UTF-16: save it as UTF-8 (iconv -f UTF-16 -t UTF-8)",
    b"\xfe\xff": "UTF-16: save it as UTF-8 (iconv -f UTF-16 -t UTF-8)",
    b"ARROW1": "an Arrow file: save it as Parquet (datasets: to_parquet)",
    b"\xff\xff\xff\xff": "an Arrow stream, as datasets keeps in its cache: save it as Parquet (datasets: to_parquet)",
    b"SQLite f": "a SQLite database: write the rows as JSON lines",
    b"7z\xbc\xaf": "a 7z archive: unpack it",
    b"\x80\x04\x95": "a pickle, which can run code when it is read: save it as JSON lines or Parquet",
    b"version ": "a pointer of Git LFS, not the file itself: run git lfs pull",
}
TAR = (257, b"ustar")


def _refuse_other(path: Path, start: bytes) -> None:
    """Raise DataError if the first bytes are those of another kind of file that people take for data."""
    for mark, what in OTHER.items():
        if start.startswith(mark):
            raise DataError(f"{path} is {what}.")
    if start[TAR[0] :].startswith(TAR[1]):
        raise DataError(f"{path} is a tar archive: unpack it, and give the files in it one by one.")


def _open(path: Path, start: bytes) -> io.BufferedIOBase:
    if start.startswith(b"\x1f\x8b"):
        return gzip.open(path)
    if start.startswith(b"\xfd7zXZ\x00"):
        return lzma.open(path)
    if start.startswith(b"BZh"):
        return bz2.open(path)
    return path.open("rb")


def _json_rows(path: Path, start: bytes, limit: int) -> Iterator[SourceRow | RowError]:
    line = 0
    with _open(path, start) as stream:
        try:
            peek = _peek(stream)
            _refuse_other(path, peek)
            found: Iterator[tuple[int, bytes | BadRow]]
            found = elements_of(stream, limit) if _is_array(peek) else lines_of(stream, limit)
            for line, raw in found:
                yield _row(line, raw, limit)
        except Endless as error:
            yield RowError(line + 1, f"{error}; nothing after it was read")
        except DAMAGED as error:
            why = str(error) or type(error).__name__
            yield RowError(
                line + 1, f"the file is cut off or damaged here, nothing after it was read: {printable(why)}"
            )


def _peek(stream: io.BufferedIOBase) -> bytes:
    """Return the first bytes of the content. The stream is then at its start, after a byte order mark."""
    try:
        peek = stream.read1(PEEK_BYTES)
    except DAMAGED:
        peek = b""  # The damage is found again, with a line number, when the records are read.
    stream.seek(len(BOM) if peek.startswith(BOM) else 0)
    return peek.removeprefix(BOM)


def _is_array(peek: bytes) -> bool:
    """Return whether the content is one JSON array, and not lines of which the first happens to be an array."""
    if not peek.lstrip().startswith(b"["):
        return False
    first, _, rest = peek.lstrip().partition(b"\n")
    if not rest.strip():
        return True
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return True
    return False


def _row(line: int, raw: bytes | BadRow, limit: int) -> SourceRow | RowError:
    if isinstance(raw, BadRow):
        return RowError(line, str(raw))
    text = printable(raw[: 4 * SHOWN_CHARACTERS].decode("utf-8", "replace").strip())
    try:
        return SourceRow(line, _parse(raw, limit), text)
    except BadRow as error:
        return RowError(line, str(error), text)


def _parse(raw: bytes, limit: int) -> Record:
    if len(raw) > limit:
        raise BadRow(f"longer than {limit:,} bytes")
    if b"\x00" in raw:
        raise BadRow("contains a NUL character")
    if raw.lstrip()[:1] == b"[":
        # It is refused before it is parsed, since brackets need much more memory as lists than as text.
        raise BadRow("not a JSON object")
    try:
        value = parse_json(raw.decode("utf-8").strip())
    except UnicodeDecodeError as error:
        raise BadRow(f"not UTF-8: byte {error.start + 1} is {raw[error.start]:#04x}") from None
    # The check can only find something if there is an escape or many brackets; most rows have neither.
    if b"\\u" in raw or raw.count(b"[") + raw.count(b"{") > MAX_DEPTH:
        value = checked(value)
    if not isinstance(value, dict):
        raise BadRow("not a JSON object")
    if not value:
        raise BadRow("an object without fields")
    if len(value) > MAX_FIELDS:
        raise BadRow(f"an object of more than {MAX_FIELDS:,} fields")
    return value


def _parquet_rows(path: Path, limit: int) -> Iterator[SourceRow | RowError]:
    from prefloop.exchange.files.parquet import parquet_records  # pyarrow takes a while to load.

    for line, found in parquet_records(path, limit):
        if isinstance(found, BadRow):
            yield RowError(line, str(found))
        else:
            shown = (f"{name}: {value[:40] if isinstance(value, str) else '...'}" for name, value in found.items())
            yield SourceRow(line, found, printable(", ".join(islice(shown, 6))))
