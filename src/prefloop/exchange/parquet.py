"""Parquet files as the same records JSON would give. The only place that knows pyarrow."""

from __future__ import annotations

import datetime
import decimal
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from prefloop.errors import DataError
from prefloop.exchange.base import BadRow, Record
from prefloop.exchange.source import check_value

BATCH_ROWS = 256
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
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                for index in range(batch.num_rows):
                    number += 1
                    yield number, _record(batch, index)
        except UNREADABLE as error:
            yield number + 1, BadRow(f"the file is damaged here, nothing after it was read: {str(error)[:200]}")


def _record(batch: Any, index: int) -> Record | BadRow:
    try:
        record = {
            name: _plain(value)
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
