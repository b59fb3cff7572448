"""Reads and writes Parquet with the same records as JSON. Only this module uses pyarrow."""

from __future__ import annotations

import datetime
import decimal
import json
import math
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from prefloop.errors import DataError
from prefloop.exchange.base import BadRow, Record, Unrepresentable, quoted
from prefloop.exchange.files.json_values import INT_RANGE, checked, parse_json
from prefloop.exchange.files.parquet_pages import groups, is_text, plan
from prefloop.exchange.files.tables import Fields, Type

BATCH_ROWS = 256
BUFFER_BYTES = 1 << 20  # bytes of a column that are read from disk at a time
# One row group has so many bytes of text, which a reader holds at once (five times as many in Python).
GROUP_BYTES = 6_000_000
GROUP_ROWS = 10_000
MARK = {b"prefloop": b"json"}  # This marks our columns whose text is JSON.
# pyarrow raises these for damaged files and for values Python cannot hold.
UNREADABLE = (pa.ArrowException, OSError, ValueError, OverflowError, NotImplementedError)


def parquet_records(path: Path, limit: int) -> Iterator[tuple[int, Record | BadRow]]:
    """Yield (row number from 1, record) of each row. A row longer than `limit` bytes is bad and is not unpacked.

    Raises DataError if the file is not Parquet.
    """
    try:
        file = pq.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER_BYTES)
        texts = [column.path for column in map(file.schema.column, range(len(file.schema))) if is_text(column)]
        # Texts stay references into the page's dictionary, so that a row of a million copies is found before it is
        # unpacked.
        file = pq.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER_BYTES, read_dictionary=texts)
    except UNREADABLE as error:
        raise DataError(f"{path} starts like Parquet but cannot be read: {error}. Was it cut short?") from None
    names = file.schema_arrow.names
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{path} has two columns that are called {quoted(twice)}. Rename one of them.")
    number = 0
    with file, path.open("rb") as raw:
        undo = {field.name: _undo(field) for field in file.schema_arrow}
        try:
            for place, group in enumerate(groups(raw, len(file.schema))):
                how = plan(raw, group, file.schema, BATCH_ROWS)
                if how.refused:
                    yield number + 1, BadRow(f"{how.refused}: too much to unpack, so {group.rows:,} rows were not read")
                    number += group.rows
                    continue
                for batch in file.iter_batches(batch_size=how.rows, row_groups=[place]):
                    lengths = _lengths(batch, limit)
                    for index in range(batch.num_rows):
                        number += 1
                        yield number, _record(batch, index, undo, limit, lengths[index])
        except UNREADABLE as error:
            yield number + 1, BadRow(f"the file is damaged here, nothing after it was read: {str(error)[:200]}")


def _lengths(batch: Any, limit: int) -> list[int]:
    """Return the approximate size of each row in bytes; all are 0 if together they are below the limit of one row."""
    if sum(_length(column) for column in batch.columns) <= limit:
        return [0] * batch.num_rows
    return [sum(_length(column.slice(row, 1)) for column in batch.columns) for row in range(batch.num_rows)]


def _length(array: Any) -> int:
    """Return the size of the values in bytes. Each value counts, since each is written at least as `0,`."""
    kind = array.type
    if isinstance(array, pa.ExtensionArray):
        return _length(array.storage)
    if pa.types.is_dictionary(kind):
        used = pc.take(pc.binary_length(array.dictionary), array.indices)
        return len(array) + (pc.sum(used).as_py() or 0)
    if pa.types.is_map(kind):
        start, end = array.offsets[0].as_py(), array.offsets[len(array)].as_py()
        return len(array) + sum(_length(part.slice(start, end - start)) for part in (array.keys, array.items))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return len(array) + _length(array.flatten())
    if pa.types.is_struct(kind):
        return len(array) + sum(map(_length, array.flatten()))
    return len(array) + int(array.nbytes)


def _record(
    batch: Any, index: int, undo: Mapping[str, Callable[[Any], Any]], limit: int, length: int
) -> Record | BadRow:
    if length > limit:
        return BadRow(f"longer than {limit:,} bytes")
    try:
        record: Record = checked(
            {
                name: undo[name](value)
                for name, column in zip(batch.schema.names, batch.columns, strict=True)
                if (value := _plain(column[index])) is not None
            }
        )
    except BadRow as error:
        return error
    return record


def _plain(scalar: Any) -> Any:
    """Return a value as in JSON, or an `Unrepresentable`. Nulls inside objects are left out."""
    try:
        return _json(scalar.as_py())
    except UNREADABLE as error:
        if isinstance(scalar, pa.StructScalar):
            parts = {name: _plain(scalar[place]) for place, name in enumerate(scalar.type.names)}
            return {name: part for name, part in parts.items() if part is not None}
        if isinstance(scalar, pa.ListScalar | pa.LargeListScalar | pa.FixedSizeListScalar):
            return [_plain(inner) for inner in scalar.values]
        return Unrepresentable(_called(scalar.type, error), f"<{scalar.type}>")


def _called(kind: Any, error: Exception) -> str:
    return "a text that is not UTF-8" if isinstance(error, UnicodeDecodeError) else f"a {kind} out of range"


def _json(value: Any) -> Any:
    """Return a Python value as it is in JSON."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, float):
        return (
            value
            if math.isfinite(value)
            else Unrepresentable(_NAMES.get(str(value), "NaN"), _NAMES.get(str(value), "NaN"))
        )
    if isinstance(value, int):
        return (
            value
            if INT_RANGE[0] <= value <= INT_RANGE[1]
            else Unrepresentable("a whole number of more than 64 bits", str(value))
        )
    if isinstance(value, dict):
        return {str(key): _json(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        found = _pairs(value)
        return [_json(inner) for inner in value] if found is None else found
    if isinstance(value, decimal.Decimal):
        return float(value)
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, bytes):
        return Unrepresentable("bytes", f"<{len(value):,} bytes>")
    return Unrepresentable(f"a {type(value).__name__}", str(value)[:200])


_NAMES = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def _pairs(value: list[Any]) -> dict[str, Any] | None:
    """Return a map, which pyarrow gives as pairs, as an object; None if its keys are not texts."""
    if not value or not all(isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str) for pair in value):
        return None
    found = dict(value)
    return None if len(found) < len(value) else {key: _json(inner) for key, inner in found.items() if inner is not None}


# -- our own files: JSON inside ----------------------------------------------------------------------------------------


def _undo(field: Any) -> Callable[[Any], Any]:
    """Return a function that restores what `write_table` put into a column: JSON text becomes the object it was."""
    if (field.metadata or {}).get(b"prefloop") == b"json":
        return lambda value: parse_json(value) if isinstance(value, str) else value
    inner = _undo_type(field.type)
    return inner or (lambda value: value)


def _undo_type(kind: Any) -> Callable[[Any], Any] | None:
    """Return a function that restores values of a type; None if nothing of it was written by this program."""
    if pa.types.is_list(kind):
        element = _undo_type(kind.value_type)
        return None if element is None else lambda values: [element(value) for value in values]
    if pa.types.is_struct(kind):
        parts = {f.name: _undo(f) for f in kind if _is_ours(f)}
        if parts:
            return lambda value: {name: parts[name](v) if name in parts else v for name, v in value.items()}
    return None


def _is_ours(field: Any) -> bool:
    return MARK.items() <= (field.metadata or {}).items() or _undo_type(field.type) is not None


def write_table(path: Path, fields: Fields, rows: Iterable[Mapping[str, Any]], schema: int) -> int:
    """Write rows of these columns, group by group. Missing values are null. Returns how many rows were written."""
    columns = pa.schema([_field(name, kind) for name, kind in fields], metadata={"prefloop.schema": str(schema)})
    count = 0
    with pq.ParquetWriter(path, columns, compression="zstd") as writer:
        for group in _groups(rows):
            fitted = [{name: _fit(row.get(name), kind) for name, kind in fields} for row in group]
            writer.write_table(pa.Table.from_pylist(fitted, schema=columns))
            count += len(group)
    return count


def _groups(rows: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    held: list[Mapping[str, Any]] = []
    size = 0
    for row in rows:
        held.append(row)
        size += len(str(row))
        if size >= GROUP_BYTES or len(held) >= GROUP_ROWS:
            yield held
            held, size = [], 0
    if held:
        yield held


def _field(name: str, kind: Type) -> Any:
    return pa.field(name, _type(kind), metadata=MARK if kind == "json" else None)


def _type(kind: Type) -> Any:
    if isinstance(kind, str):
        return _PLAIN_TYPES[kind]() if kind != "turns" else pa.list_(pa.struct([_text("role"), _text("content")]))
    if kind[0] == "list":
        return pa.list_(_type(kind[1]))
    return pa.struct([_field(name, inner) for name, inner in kind])


def _text(name: str) -> Any:
    return pa.field(name, pa.string())


_PLAIN_TYPES: dict[str, Callable[[], Any]] = {
    "text": pa.string,
    "json": pa.string,
    "bool": pa.bool_,
    "int": pa.int64,
    "float": pa.float64,
}


def _fit(value: Any, kind: Type) -> Any:
    """Return a value as its column stores it.

    Free-form objects become JSON text, and whole numbers of float columns become floats.
    """
    if value is None or kind == "turns":
        return value
    if kind == "json":
        return json.dumps(value, ensure_ascii=False)
    if kind == "float":
        return float(value)
    if isinstance(kind, str):
        return value
    if kind[0] == "list":
        return [_fit(inner, kind[1]) for inner in value]
    return {name: _fit(value.get(name), inner) for name, inner in kind}
