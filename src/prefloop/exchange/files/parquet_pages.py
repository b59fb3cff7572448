"""Finds out how much memory a Parquet file would need, from the headers of its pages, before unpacking anything.

A few bytes can stand for a gigabyte: a page that compresses well, or a row with millions of references to one text.
pyarrow unpacks whole pages, so each page is checked first. A page header is a Thrift struct in the compact protocol
(https://github.com/apache/parquet-format), of which four numbers are needed.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

HELD_BYTES = 64_000_000  # So many bytes of values are unpacked at a time.
RATIO = 100  # A larger page is plausible only if the file itself is that large.
# A column of lists may have so many values in one row group, since a row may be anywhere in it.
NESTED_VALUES = 32_000_000
MANY_ROWS = 100_000  # Different rows take more than a hundredth of a byte each.
HEADER_BYTES = (1 << 12, 1 << 20)  # Most headers are short; with statistics they can be long.


@dataclass(frozen=True)
class Plan:
    """Says how to read a row group: `rows` at a time, or not at all and why."""

    rows: int
    refused: str = ""


@dataclass(frozen=True)
class Group:
    """Holds a row group: its number of rows, and where its columns are."""

    rows: int
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True)
class Chunk:
    """Says where the pages of a column of one row group begin."""

    values: int
    data: int
    dictionary: int = 0  # 0 means that there is none.


def groups(file: BinaryIO, columns: int) -> list[Group]:
    """Return the row groups, read from the end of the file.

    pyarrow would end the whole process for some damaged files.

    Raises ValueError if the metadata makes no sense.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(size - 8)
    length = int.from_bytes(file.read(4), "little")
    file.seek(max(0, size - 8 - length))
    try:
        listed = _struct(io.BytesIO(file.read(length)), 0).get(4)
    except EOFError:
        raise ValueError("the end of the file is cut short") from None
    found = [_group(group) for group in (listed if isinstance(listed, list) else ())]
    if any(len(group.chunks) != columns for group in found):
        raise ValueError("a row group has not the columns of the file")
    return found


def _group(found: Any) -> Group:
    chunks = []
    for column in found.get(1) or () if isinstance(found, dict) else ():
        meta = column.get(3) if isinstance(column, dict) else None
        numbers = [meta.get(number, 0) for number in (5, 9, 11)] if isinstance(meta, dict) else []
        known = [number for number in numbers if isinstance(number, int) and number >= 0]
        if len(known) < 3:
            raise ValueError("a column has no place")
        chunks.append(Chunk(*known))
    rows = found.get(3) if isinstance(found, dict) else None
    if not isinstance(rows, int) or rows < 0:
        raise ValueError("a row group has no number of rows")
    return Group(rows, tuple(chunks))


def plan(file: BinaryIO, group: Group, schema: Any, rows: int) -> Plan:
    """Return how to read one row group, with at most `rows` rows at a time."""
    row_bytes, packed = 0.0, 0
    for index, chunk in enumerate(group.chunks):
        column = schema.column(index)
        name, values, largest = column.path[:60], 0, 0.0
        for page in _pages(file, chunk):
            if page.unpacked > HELD_BYTES and page.unpacked > RATIO * page.packed:
                return Plan(0, f"column {name!r} has {page.unpacked:,} bytes packed into {page.packed:,}")
            values, packed = values + page.values, packed + page.packed
            # The dictionary of a text column is held once, however many rows there are.
            if page.values or not is_text(column):
                largest = max(largest, page.unpacked / max(1, page.values))
        if column.max_repetition_level and values > NESTED_VALUES:
            return Plan(0, f"column {name!r} has {values:,} values in {group.rows:,} rows")
        if column.physical_type == "FIXED_LEN_BYTE_ARRAY":
            largest = max(largest, column.length)
        row_bytes += largest * max(1, values / max(1, group.rows))
    if group.rows > max(MANY_ROWS, RATIO * packed):
        return Plan(0, f"{group.rows:,} rows stand in {packed:,} bytes")
    return Plan(int(max(1, min(rows, HELD_BYTES / max(1.0, row_bytes)))))


def is_text(column: Any) -> bool:
    """Return whether the reader keeps the values of a column as references into the dictionaries of its pages."""
    return column.physical_type == "BYTE_ARRAY" and column.logical_type.type in ("STRING", "NONE", "ENUM")


@dataclass(frozen=True)
class _Page:
    packed: int
    unpacked: int
    values: int  # number of rows, or of entries of lists; 0 for a dictionary


def _pages(file: BinaryIO, chunk: Chunk) -> Iterator[_Page]:
    """Yield the pages of a column chunk. Raises ValueError if a header makes no sense."""
    at = chunk.dictionary if 0 < chunk.dictionary < chunk.data else chunk.data
    seen = 0
    while seen < chunk.values:
        header, length = _header(file, at)
        unpacked, packed = header.get(2), header.get(3)
        if not isinstance(unpacked, int) or not isinstance(packed, int) or unpacked < 0 or packed < 0:
            raise ValueError("a page has no size")
        data = header.get(5) or header.get(8) or {}
        values = data.get(1) if isinstance(data, dict) else None
        values = values if isinstance(values, int) and values > 0 else 0
        yield _Page(packed, unpacked, values)
        seen += values
        at += length + packed


def _header(file: BinaryIO, at: int) -> tuple[dict[int, Any], int]:
    """Return the header at a position, and its length."""
    for size in HEADER_BYTES:
        file.seek(at)
        source = io.BytesIO(file.read(size))
        try:
            return _struct(source, 0), source.tell()
        except EOFError:
            continue
    raise ValueError("a page header is cut short")


# -- Thrift's compact protocol -----------------------------------------------------------------------------------------

DEEPEST = 16


def _struct(source: BinaryIO, depth: int) -> dict[int, Any]:
    """Return {field number: value} of a struct. Maps and texts are skipped."""
    if depth > DEEPEST:
        raise ValueError("a page header is nested too deep")
    found: dict[int, Any] = {}
    number = 0
    while byte := _byte(source):
        kind = byte & 15
        number = number + (byte >> 4) if byte >> 4 else _zigzag(source)
        found[number] = _value(source, kind, depth)
    return found


def _value(source: BinaryIO, kind: int, depth: int) -> Any:
    if kind in (1, 2):  # For true and false the type is the value.
        return kind == 1
    if kind == 3:
        return _byte(source)
    if kind in (4, 5, 6):
        return _zigzag(source)
    if kind == 7:
        return _skip(source, 8)
    if kind == 8:
        return _skip(source, _varint(source))
    if kind == 12:
        return _struct(source, depth + 1)
    if kind in (9, 10):
        return _list(source, depth + 1)
    raise ValueError("a page header has a field of an unknown kind")


def _list(source: BinaryIO, depth: int) -> list[Any]:
    if depth > DEEPEST:
        raise ValueError("a header is nested too deep")
    head = _byte(source)
    size = head >> 4 if head >> 4 < 15 else _varint(source)
    return [_byte(source) if head & 15 in (1, 2) else _value(source, head & 15, depth) for _ in range(size)]


def _byte(source: BinaryIO) -> int:
    found = source.read(1)
    if not found:
        raise EOFError
    return found[0]


def _skip(source: BinaryIO, size: int) -> None:
    if len(source.read(size)) < size:
        raise EOFError


def _varint(source: BinaryIO) -> int:
    value = shift = 0
    while (byte := _byte(source)) & 128:
        value |= (byte & 127) << shift
        shift += 7
        if shift > 63:
            raise ValueError("a page header has a number of more than 64 bits")
    return value | byte << shift


def _zigzag(source: BinaryIO) -> int:
    value = _varint(source)
    return (value >> 1) ^ -(value & 1)
