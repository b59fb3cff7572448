"""Parquet files as the same records JSON would give. The only place that knows pyarrow."""

from __future__ import annotations

import datetime
import decimal
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from prefloop.errors import DataError
from prefloop.exchange.base import BadRow, Record
from prefloop.exchange.source import check_value, parse_json
from prefloop.exchange.tables import Fields, Type

BATCH_ROWS = 256
GROUP_BYTES = 6_000_000  # of text in one row group: what a reader, and this writer, holds at once (five-fold as Python)
GROUP_ROWS = 10_000
MARK = {b"prefloop": b"json"}  # on a column of ours whose text is JSON
# what pyarrow raises for damaged files and for values Python cannot hold
UNREADABLE = (pa.ArrowException, OSError, ValueError, OverflowError, NotImplementedError)


def parquet_records(path: Path) -> Iterator[tuple[int, Record | BadRow]]:
    """(row number from 1, record) of each row. Raises DataError if the file is not Parquet after all."""
    try:
        file = pq.ParquetFile(path)
    except UNREADABLE as error:
        raise DataError(f"{path} starts like Parquet but cannot be read: {error}. Was it cut short?") from None
    with file:
        number = 0
        try:
            undo = {field.name: _undo(field) for field in file.schema_arrow}
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                for index in range(batch.num_rows):
                    number += 1
                    yield number, _record(batch, index, undo)
        except UNREADABLE as error:
            yield number + 1, BadRow(f"the file is damaged here, nothing after it was read: {str(error)[:200]}")


def _record(batch: Any, index: int, undo: Mapping[str, Callable[[Any], Any]]) -> Record | BadRow:
    try:
        record = {
            name: undo[name](_plain(value))
            for name, column in zip(batch.schema.names, batch.columns, strict=True)
            if (value := column[index].as_py()) is not None
        }
        check_value(record)
    except BadRow as error:
        return error
    except UNREADABLE as error:  # text that is not UTF-8, a date Python cannot hold
        return BadRow(f"a value cannot be read: {str(error)[:100]!r}")
    return record


def _plain(value: object) -> object:
    """Columns are filled with nulls where JSON would leave a field out: those are left out again."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise BadRow(f"{value} is not a number")
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, decimal.Decimal):
        return float(value)
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    raise BadRow(f"holds a value of type {type(value).__name__}, which has no place in JSON")


# -- our own files: JSON inside ----------------------------------------------------------------------------------------


def _undo(field: Any) -> Callable[[Any], Any]:
    """How to get back what `write_table` put into a column: JSON text becomes the object it was."""
    if (field.metadata or {}).get(b"prefloop") == b"json":
        return lambda value: parse_json(value) if isinstance(value, str) else value
    inner = _undo_type(field.type)
    return inner or (lambda value: value)


def _undo_type(kind: Any) -> Callable[[Any], Any] | None:
    """None where nothing of a type is ours, so that other people's files cost no walk."""
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
    """Write rows of these columns, group by group; what has no column in a row is null. Returns how many rows."""
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
    """A value as its column takes it: free-form objects as JSON text, whole numbers as floats where floats belong."""
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
