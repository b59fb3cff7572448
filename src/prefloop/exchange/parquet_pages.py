"""What a Parquet file would become in memory, read off the headers of its pages before anything is unpacked.

A few bytes can stand for a gigabyte: one page that compresses well, or a row with millions of references to one text.
pyarrow unpacks whole pages, so a page is looked at first. Its header is a Thrift struct in the compact protocol
(https://github.com/apache/parquet-format), of which four numbers are needed.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

HELD_BYTES = 64_000_000  # of values unpacked at a time
RATIO = 100  # a larger page is real where the file itself is that large
NESTED_VALUES = 32_000_000  # of a column of lists, in one row group: a row of them may be anywhere in it
MANY_ROWS = 100_000  # rows that differ take more than a hundredth of a byte each
HEADER_BYTES = (1 << 12, 1 << 20)  # most are short; with statistics they can be long


@dataclass(frozen=True)
class Plan:
    """How to read a row group: `rows` at a time, or not at all, and why."""

    rows: int
    refused: str = ""


def plan(file: BinaryIO, group: Any, schema: Any, rows: int) -> Plan:
    """Of one row group (pyarrow's metadata of it); at most `rows` at a time."""
    row_bytes, packed = 0.0, 0
    for index in range(group.num_columns):
        chunk, column = group.column(index), schema.column(index)
        name, values, largest = chunk.path_in_schema[:60], 0, 0.0
        for page in _pages(file, chunk):
            if page.unpacked > HELD_BYTES and page.unpacked > RATIO * page.packed:
                return Plan(0, f"column {name!r} has {page.unpacked:,} bytes packed into {page.packed:,}")
            values, packed = values + page.values, packed + page.packed
            if page.values or not is_text(column):  # the dictionary of a text column is held once, however many rows
                largest = max(largest, page.unpacked / max(1, page.values))
        if column.max_repetition_level and values > NESTED_VALUES:
            return Plan(0, f"column {name!r} has {values:,} values in {group.num_rows:,} rows")
        if column.physical_type == "FIXED_LEN_BYTE_ARRAY":
            largest = max(largest, column.length)
        row_bytes += largest * max(1, values / max(1, group.num_rows))
    if group.num_rows > max(MANY_ROWS, RATIO * packed):
        return Plan(0, f"{group.num_rows:,} rows stand in {packed:,} bytes")
    return Plan(int(max(1, min(rows, HELD_BYTES / max(1.0, row_bytes)))))


def is_text(column: Any) -> bool:
    """Whether the reader leaves the values of a column as references into the dictionaries of its pages."""
    return column.physical_type == "BYTE_ARRAY" and column.logical_type.type in ("STRING", "NONE", "ENUM")


@dataclass(frozen=True)
class _Page:
    packed: int
    unpacked: int
    values: int  # rows, or entries of lists; 0 for a dictionary


def _pages(file: BinaryIO, chunk: Any) -> Iterator[_Page]:
    """The pages of a column chunk. Raises ValueError where a header makes no sense."""
    at = chunk.data_page_offset
    if chunk.has_dictionary_page and 0 < (chunk.dictionary_page_offset or 0) < at:
        at = chunk.dictionary_page_offset
    seen = 0
    while seen < chunk.num_values:
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
    """The header that begins at a place, and how long it is."""
    for size in HEADER_BYTES:
        file.seek(at)
        source = io.BytesIO(file.read(size))
        try:
            return _struct(source, 0), source.tell()
        except EOFError:
            continue
    raise ValueError("a page header is cut short")


# -- Thrift's compact protocol -----------------------------------------------------------------------------------------

DEEPEST = 8


def _struct(source: BinaryIO, depth: int) -> dict[int, Any]:
    """{field number: value} of a struct; lists, maps and texts are skipped."""
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
    if kind in (1, 2):  # true and false are the kind itself
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


def _list(source: BinaryIO, depth: int) -> None:
    head = _byte(source)
    size = head >> 4 if head >> 4 < 15 else _varint(source)
    for _ in range(size):
        _ = _byte(source) if head & 15 in (1, 2) else _value(source, head & 15, depth)


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
