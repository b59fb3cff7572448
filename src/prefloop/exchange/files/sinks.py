"""Writes rows to files: JSON lines, CSV or Parquet, by the name of the file.

A file is written completely or not at all, and equal rows give equal bytes. One row is in memory at a time. For
Parquet it is one batch, and its rows wait in a temporary file until their types are known.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from prefloop.errors import DataError
from prefloop.exchange.files.spreadsheet import write_csv
from prefloop.exchange.files.tables import Columns
from prefloop.exchange.formats import canonical

SCHEMA = canonical.SCHEMA  # The layout of everything written has this version; a reader refuses a newer one.

OutputRow = Mapping[str, Any]
Rows = Iterable[OutputRow]
FREE = ("metadata", "sampling", "ratings", "prefloop")  # These columns are objects of any shape.


@dataclass(frozen=True)
class Written:
    """Describes a file that was written.

    format:  "jsonl", "csv" or "parquet"
    sha256:  the hash of the file on disk, compression included
    mended:  how many rows had surrogates, which UTF-8 cannot hold: pairs became their character, single ones U+FFFD
    schema:  the version of the layout; docs/formats.md describes them
    """

    rows: int
    bytes: int
    sha256: str
    format: str
    mended: int = 0
    schema: int = SCHEMA


def format_of(path: Path) -> str:
    """Return the format for a file name: JSON lines unless the ending says otherwise."""
    stem = path.name.removesuffix(path.suffix) if path.suffix in (".gz", ".xz") else path.name
    if stem.endswith(".parquet"):
        if stem != path.name:
            raise DataError(f"cannot write {path}: Parquet compresses by itself. Name it .parquet.")
        return "parquet"
    return "csv" if stem.endswith(".csv") else "jsonl"


def write_rows(path: Path, columns: Columns, rows: Rows) -> Written:
    """Write rows of one kind. Raises DataError if the place or a row is bad; an older file then stays as it was."""
    path = Path(path)
    format = format_of(path)
    if path.is_dir() or not path.parent.is_dir():
        raise DataError(f"cannot write {path}: it must be a file in a folder that exists. Make the folder first.")
    aside = path.with_name(f".{path.name[:100]}.{os.getpid()}.tmp")
    lines = _Lines(rows)
    try:
        if format == "parquet":
            count = _write_parquet(aside, columns, lines)
        else:
            with aside.open("wb") as file, closing(_compressed(file, path.suffix)) as out:
                count = write_csv(out, columns, lines.clean()) if format == "csv" else _write_lines(out, lines)
        size, sha256 = _settle(aside)
        aside.replace(path)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error}. Check the folder's permissions and the space left.") from None
    finally:
        for scrap in (aside, _spool(aside)):
            # After a success the file is gone, and it was never made if the folder is read-only.
            with suppress(OSError):
                scrap.unlink()
    return Written(count, size, sha256, format, lines.mended)


def _settle(path: Path) -> tuple[int, str]:
    """Return the size and hash of a file that is on disk and would survive power loss."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()


def _compressed(file: IO[bytes], suffix: str) -> IO[bytes]:
    if suffix == ".gz":
        # The header has no name and time, so that equal rows give equal bytes.
        return cast(IO[bytes], gzip.GzipFile("", "wb", 6, file, 0))
    if suffix == ".xz":
        return lzma.open(file, "wb")
    return file


# -- one row ---------------------------------------------------------------------------------------------------------


class _Lines:
    """Yields the rows as JSON, one a line. It counts rows whose text had to be mended."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self.mended = 0

    def __iter__(self) -> Iterator[bytes]:
        for row in self._rows:
            text = _json(row)
            try:
                line = text.encode()
            except UnicodeEncodeError:
                line = mend(text).encode()
                self.mended += 1
            yield line + b"\n"

    def clean(self) -> Iterator[OutputRow]:
        """Yield the rows themselves, with the same checks and mending."""
        for line in self:
            yield json.loads(line)


def mend(text: str) -> str:
    """Return the text with each surrogate pair replaced by its character, and each single surrogate by U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _json(row: OutputRow) -> str:
    try:
        return json.dumps(_sorted(row), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:  # ValueError is raised for NaN.
        raise DataError(f"a record cannot be written as JSON: {error}. Its prompt: {row.get('prompt')!a:.80}") from None


def _sorted(value: object, free: bool = False) -> object:
    """Return free-form objects sorted by key, since databases do not keep the order."""
    if isinstance(value, Mapping):
        names = sorted(value) if free else value
        return {name: _sorted(value[name], free or name in FREE) for name in names}
    if isinstance(value, list | tuple):
        return [_sorted(inner, free) for inner in value]
    return value


def _write_lines(out: IO[bytes], lines: Iterable[bytes]) -> int:
    count = 0
    for line in lines:
        out.write(line)
        count += 1
    return count


# -- Parquet ---------------------------------------------------------------------------------------------------------


def _spool(aside: Path) -> Path:
    return aside.with_name(f"{aside.name}.rows")


def _write_parquet(aside: Path, columns: Columns, lines: Iterable[bytes]) -> int:
    """Write Parquet. Rows are first written to a temporary file.

    A column has one type, and only after the last row it is known whether prompts are chats.
    """
    from prefloop.exchange.files.parquet import write_table  # pyarrow takes a while to load.

    spool = _spool(aside)
    chats = rich = False
    with spool.open("wb") as out:
        for line in lines:
            out.write(line)
            row = json.loads(line)
            chats, rich = chats or columns.is_chat(row), rich or columns.is_rich(row)

    def rows() -> Iterator[OutputRow]:
        with spool.open("rb") as file:
            for line in file:
                yield columns.row(json.loads(line), chats, rich)

    return write_table(aside, columns.fields(chats, rich), rows(), SCHEMA)
