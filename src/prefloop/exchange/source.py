"""From a file to its JSON objects: lines, arrays or Parquet; plain, gzip, xz or bzip2; one record in memory at a time.

What a file is, is read off its first bytes, never off its name. A record too long, too deep, not JSON or not clean
text becomes a `RowError`; only a file that cannot be opened at all is a `DataError`.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

from prefloop.errors import DataError
from prefloop.exchange.base import SHOWN_CHARACTERS, BadRow, Record, RowError, printable

MAX_DEPTH = 200  # levels of nesting; conversation trees need about 40, Python's parser gives up near 1,000
INT_RANGE = (-(2**63), 2**64 - 1)
BOM = b"\xef\xbb\xbf"
CHUNK_BYTES = 1 << 16
PEEK_BYTES = 1 << 16

# a compressed file that ends early or is damaged fails while it is read, not when it is opened
DAMAGED = (EOFError, OSError, zlib.error, lzma.LZMAError)


@dataclass(frozen=True)
class Row:
    """One record and where it was."""

    line: int
    record: Record
    text: str


def rows(path: Path, max_line_bytes: int) -> Iterator[Row | RowError]:
    """Every record of a file, in order. Raises DataError at once if the file cannot be opened or holds nothing."""
    start = _check(path)
    found = _parquet_rows(path) if start.startswith(b"PAR1") else _json_rows(path, start, max_line_bytes)
    first = next(found, None)
    if first is None:
        raise DataError(f"{path} holds no records. Give a file with one JSON object a line, a JSON array, or Parquet.")
    return chain([first], found)


def _check(path: Path) -> bytes:
    """The first bytes of a regular, readable, non-empty file."""
    try:
        if path.is_dir():
            raise DataError(f"{path} is a folder. Give the files in it, one by one.")
        if not path.exists():
            raise DataError(f"{path} does not exist. Check the spelling and the folder you are in.")
        if not path.is_file():
            raise DataError(f"{path} is not a regular file. Save the data to a file first.")
        with path.open("rb") as file:
            start = file.read(8)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise DataError(
            f"cannot read {printable(str(path), 300)}: {error}. Check the name and its permissions."
        ) from None
    if not start:
        raise DataError(f"{path} is empty. Was the download or the export cut short?")
    return start


def _open(path: Path, start: bytes) -> io.BufferedIOBase:
    if start.startswith(b"\x1f\x8b"):
        return gzip.open(path)
    if start.startswith(b"\xfd7zXZ\x00"):
        return lzma.open(path)
    if start.startswith(b"BZh"):
        return bz2.open(path)
    return path.open("rb")


def _json_rows(path: Path, start: bytes, limit: int) -> Iterator[Row | RowError]:
    line = 0
    with _open(path, start) as stream:
        try:
            peek = _peek(stream)
            found: Iterator[tuple[int, bytes | BadRow]]
            found = _elements(stream, limit) if _is_array(peek) else _lines(stream, limit)
            for line, raw in found:
                yield _row(line, raw, limit)
        except DAMAGED as error:
            why = str(error) or type(error).__name__
            yield RowError(
                line + 1, f"the file is cut off or damaged here, nothing after it was read: {printable(why)}"
            )


def _peek(stream: io.BufferedIOBase) -> bytes:
    """The first bytes of the content; the stream is left at its start, after a byte order mark."""
    try:
        peek = stream.read1(PEEK_BYTES)
    except DAMAGED:
        peek = b""  # met again, with a line number, when the records are read
    stream.seek(len(BOM) if peek.startswith(BOM) else 0)
    return peek.removeprefix(BOM)


def _is_array(peek: bytes) -> bool:
    """Whether the content is one JSON array, rather than lines of which the first happens to be an array."""
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


def _lines(stream: io.BufferedIOBase, limit: int) -> Iterator[tuple[int, bytes | BadRow]]:
    """Non-blank lines with their numbers; of a line over `limit` bytes only the first `limit` + 1 are kept."""
    line = 0
    while raw := stream.readline(limit + 1):
        line += 1
        rest = raw
        while not rest.endswith(b"\n") and (rest := stream.readline(CHUNK_BYTES)):
            if len(raw) <= limit:
                raw += rest  # a short read, not a long line
        if len(raw) > limit or raw.strip():
            yield line, raw


_OUTSIDE = re.compile(rb'["\[\]{},\n]')
_INSIDE = re.compile(rb'["\\\n]')


def _elements(stream: io.BufferedIOBase, limit: int) -> Iterator[tuple[int, bytes | BadRow]]:
    """The elements of one JSON array, cut out without parsing, with the lines they start on.

    Only brackets and strings are followed, so an element that is not JSON costs itself and not its neighbours.
    """
    depth, begin, start, line = 0, 0, 1, 1  # begin: of what is not yet copied into `element`
    element = bytearray()
    for chunk, at, line in _marks(stream):
        mark = chunk[at : at + 1]
        if depth == 1 and mark in (b",", b"]", b"}"):
            element += chunk[begin:at]
            if element.strip() or mark == b",":
                yield start + _blank_lines(element), bytes(element)
            element.clear()
            begin, start = at + 1, line
        if not mark:
            if len(element) <= limit:
                element += chunk[begin:]
            begin = 0
        elif mark in b"[{":
            depth += 1
            begin = at + 1 if depth == 1 else begin
        elif mark != b",":
            depth -= 1
            if depth == 0:
                if (chunk[at + 1 :] + stream.read(PEEK_BYTES)).strip():
                    yield line, BadRow("something follows the end of the array; it was not read")
                return
    if element.strip():
        yield start + _blank_lines(element), bytes(element)
    yield line, BadRow("the array is not closed; was the file cut short?")


def _marks(stream: io.BufferedIOBase) -> Iterator[tuple[bytes, int, int]]:
    """(chunk, position, line) of every bracket and comma outside strings, and of the end of every chunk."""
    line, in_string, escaped = 1, False, False
    while chunk := stream.read1(CHUNK_BYTES):  # read1: keeps what comes before a damaged place
        at = 1 if escaped else 0
        escaped = False
        while found := (_INSIDE if in_string else _OUTSIDE).search(chunk, at):
            mark, at = found.group(), found.end()
            if mark == b"\n":
                line += 1
            elif mark == b'"':
                in_string = not in_string
            elif mark == b"\\":
                escaped = at == len(chunk)
                at += 1
            else:
                yield chunk, found.start(), line
        yield chunk, len(chunk), line


def _blank_lines(element: bytearray) -> int:
    return element[: len(element) - len(element.lstrip())].count(b"\n")


def _row(line: int, raw: bytes | BadRow, limit: int) -> Row | RowError:
    if isinstance(raw, BadRow):
        return RowError(line, str(raw))
    text = printable(raw[: 4 * SHOWN_CHARACTERS].decode("utf-8", "replace").strip())
    try:
        return Row(line, _parse(raw, limit), text)
    except BadRow as error:
        return RowError(line, str(error), text)


def _parse(raw: bytes, limit: int) -> Record:
    if len(raw) > limit:
        raise BadRow(f"longer than {limit:,} bytes")
    if b"\x00" in raw:
        raise BadRow("contains a NUL character")
    try:
        value = parse_json(raw.decode("utf-8").strip())
    except UnicodeDecodeError as error:
        raise BadRow(f"not UTF-8: byte {error.start + 1} is {raw[error.start]:#04x}") from None
    # the two things a walk can find need either an escape or many brackets; most rows have neither
    if b"\\u" in raw or raw.count(b"[") + raw.count(b"{") > MAX_DEPTH:
        check_value(value)
    if not isinstance(value, dict):
        raise BadRow("not a JSON object")
    return value


def parse_json(text: str) -> Any:
    """One JSON value; finite numbers, no key twice. Raises BadRow. Text and depth are for `check_value` to check."""
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise BadRow(f"not JSON: {printable(error.msg)} at character {error.pos + 1}") from None
    except RecursionError:
        raise BadRow(f"nested more than {MAX_DEPTH} levels deep") from None


def check_value(value: object) -> None:
    """Raise BadRow for text no database or file can hold, or nesting that later code could not walk."""
    pending: list[tuple[object, int]] = [(value, 1)]
    while pending:
        part, depth = pending.pop()
        if depth > MAX_DEPTH:
            raise BadRow(f"nested more than {MAX_DEPTH} levels deep")
        if isinstance(part, str):
            if "\x00" in part:
                raise BadRow("contains a NUL character")
            if not part.isascii() and any("\ud800" <= c <= "\udfff" for c in part):
                raise BadRow("contains half a surrogate pair, which is not a character")
        elif isinstance(part, dict):
            pending += [(inner, depth + 1) for pair in part.items() for inner in pair]
        elif isinstance(part, list):
            pending += [(inner, depth + 1) for inner in part]


def _float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise BadRow(f"number out of range: {printable(text, 40)}")
    return value


def _int(text: str) -> int:
    if len(text) > 20 or not INT_RANGE[0] <= (value := int(text)) <= INT_RANGE[1]:
        raise BadRow(f"whole number out of range (more than 64 bits): {printable(text, 40)}")
    return value


def _constant(text: str) -> NoReturn:
    raise BadRow(f"{text} is not a number")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise BadRow(f"names {printable(repr(twice), 60)} twice in one object")
    return found


def pack(record: Record) -> str:
    """A record as text that `unpack` turns back into an equal one."""
    return json.dumps(record, ensure_ascii=True)


def unpack(text: str) -> Record:
    record: Record = json.loads(text)
    return record


_DECODER = json.JSONDecoder(parse_float=_float, parse_int=_int, parse_constant=_constant, object_pairs_hook=_object)


def _parquet_rows(path: Path) -> Iterator[Row | RowError]:
    from prefloop.exchange.parquet import parquet_records  # pyarrow takes a while to load

    for line, found in parquet_records(path):
        if isinstance(found, BadRow):
            yield RowError(line, str(found))
        else:
            yield Row(line, found, printable(json.dumps(found, ensure_ascii=False)[: 2 * SHOWN_CHARACTERS]))
