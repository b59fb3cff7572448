"""Brings rows with equal keys together, wherever they are in a file. A database on disk limits the memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator

from prefloop.exchange.base import BadRow, Record, RowError
from prefloop.exchange.files.json_values import pack, unpack
from prefloop.exchange.files.source import SourceRow

CACHE_KB = 8000  # SQLite has so much memory; the rest is in a file that disappears when it is closed.

_TABLES = f"""
PRAGMA cache_size = -{CACHE_KB};
PRAGMA journal_mode = OFF;
CREATE TABLE lists (number INTEGER PRIMARY KEY, key TEXT UNIQUE, bytes INTEGER NOT NULL, rows INTEGER NOT NULL);
CREATE TABLE rows (number INTEGER, line INTEGER, record TEXT, text TEXT, PRIMARY KEY (number, line)) WITHOUT ROWID;
BEGIN;
"""


def together(
    found: Iterable[SourceRow | RowError], key: Callable[[Record], str], limit: int
) -> Iterator[list[SourceRow] | RowError]:
    """Yield lists of rows with equal keys, in the order of their first rows. Bad rows come first.

    A list is one record, so its rows together may have at most `limit` bytes; otherwise the list is a RowError.
    """
    database = sqlite3.connect("")  # The name "" opens a temporary file.
    try:
        database.executescript(_TABLES)
        for row in found:
            if isinstance(row, RowError):
                yield row
                continue
            try:
                name = key(row.record)
            except BadRow as error:
                yield RowError(row.line, str(error), row.text)
                continue
            _keep(database, name, row, limit)
        yield from _lists(database, limit)
    finally:
        database.close()


def _keep(database: sqlite3.Connection, key: str, row: SourceRow, limit: int) -> None:
    """Store a row. Of a list that is too long only the first rows are kept, which are enough to report it."""
    packed = pack(row.record)
    database.execute(
        "INSERT INTO lists (key, bytes, rows) VALUES (?, ?, 1)"
        " ON CONFLICT (key) DO UPDATE SET bytes = bytes + excluded.bytes, rows = rows + 1",
        (key, len(packed)),
    )
    number, size, rows = database.execute("SELECT number, bytes, rows FROM lists WHERE key = ?", (key,)).fetchone()
    if size <= limit or rows == 1:
        database.execute("INSERT INTO rows VALUES (?, ?, ?, ?)", (number, row.line, packed, row.text))


def _lists(database: sqlite3.Connection, limit: int) -> Iterator[list[SourceRow] | RowError]:
    lists = database.execute("SELECT number, bytes, rows FROM lists ORDER BY number")
    for number, size, count in lists:
        rows = database.execute("SELECT line, record, text FROM rows WHERE number = ? ORDER BY line", (number,))
        if size > limit and count > 1:
            line, _, text = rows.fetchone()
            yield RowError(line, f"the {count:,} rows of this prompt are together longer than {limit:,} bytes", text)
        else:
            yield [SourceRow(line, unpack(record), text) for line, record, text in rows]
