"""Copies a whole store into one SQLite file and back. The copy is of one moment, also while others write.

SQLite is copied by its online backup, in one step inside one read transaction: writers do not wait for it, and cannot
make it start again. Postgres is copied table by table inside one repeatable-read transaction. In both cases the file
is a store that prefloop can open, so a backup of one kind of database can be restored to the other.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy import Column, Connection, Table, func, insert, select, text, tuple_

from prefloop.errors import StoreError
from prefloop.store.connections.database import Database, explain
from prefloop.store.schema import metadata
from prefloop.store.store import Store

PAGE = 1000  # So many rows are in memory at once.


def dump(store: Store, to: Path) -> dict[str, int]:
    """Copy everything into a new SQLite file and return {table: rows}. Raises StoreError if the copy is not exact."""
    if to.exists():
        raise StoreError(f"{to} exists already. Choose another name.")
    database = store._database
    counts = _copy_file(database, to) if database.sqlite else _copy_rows_out(database, to)
    found = inspect(to)
    if found != counts:
        raise StoreError(f"{to}: the copy holds {found}, the store held {counts}. Try again, and run: prefloop doctor")
    return counts


def inspect(file: Path) -> dict[str, int]:
    """Return the number of rows of each table of a copy.

    Raises StoreError if the file is damaged, or if rows refer to rows that do not exist.
    """
    with explain(str(file)), closing(_open(file)) as connection:
        for pragma in ("integrity_check", "foreign_key_check"):
            bad = [row for row in connection.execute(f"PRAGMA {pragma}").fetchmany(3) if row[0] != "ok"]
            if bad:
                raise StoreError(f"{file} is damaged: {bad}. Use another backup.")
        return _file_counts(connection)


def load(file: Path, target: Store) -> dict[str, int]:
    """Copy a dump into an empty store in one transaction, and return {table: rows}. First bring `file` up to date.

    Raises StoreError if the store is not empty, or has another number of rows afterwards.
    """
    source = Store.open(f"sqlite:///{file.name}", file.parent, create=False)
    with source, target._database.write() as connection, source._database.read() as reader:
        held = {name: rows for name, rows in _counts(connection).items() if rows}
        if held:
            raise StoreError(
                f"{target._database.label} holds data already ({_listed(held)}); nothing is overwritten. Name an empty "
                "database: --set project.store=URL"
            )
        for table in metadata.sorted_tables:
            _copy_table(reader, connection, table)
        if not target._database.sqlite:
            _set_counters(connection)
        counts, wanted = _counts(connection), _counts(reader)
        if counts != wanted:
            raise StoreError(f"{target._database.label} took {counts}, the backup holds {wanted}")
    return counts


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{rows} {name}" for name, rows in sorted(counts.items())[:4])


# -- SQLite to SQLite --------------------------------------------------------------------------------------------------


def _copy_file(database: Database, to: Path) -> dict[str, int]:
    with explain(database.label), closing(_open(Path(database.label))) as source:
        source.execute("BEGIN")
        counts = _file_counts(source)  # After its first read this connection sees one moment.
        with closing(sqlite3.connect(to)) as copy:
            source.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")  # The copy is a single file that can be moved.
        source.execute("ROLLBACK")
    return counts


def _open(path: Path) -> sqlite3.Connection:
    """Open a store for reading only. A server may be writing to it."""
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=30)
    connection.isolation_level = None  # Transactions begin explicitly.
    return connection


def _file_counts(connection: sqlite3.Connection) -> dict[str, int]:
    """Return the rows of the tables that exist; a file of another version has other tables."""
    listed = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
    names = [name for (name,) in listed if name != "alembic_version" and not name.startswith("sqlite_")]
    quoted = {name: '"' + name.replace('"', '""') + '"' for name in names}  # The file may come from anybody.
    return {name: int(connection.execute(f"SELECT count(*) FROM {quoted[name]}").fetchone()[0]) for name in names}


# -- table by table ----------------------------------------------------------------------------------------------------


def _copy_rows_out(database: Database, to: Path) -> dict[str, int]:
    moment = database._worker.connect().execution_options(isolation_level="REPEATABLE READ")
    with explain(database.label), moment as reader, Store.open(f"sqlite:///{to.name}", to.parent) as copy:
        counts = _counts(reader)
        with copy._database.write() as connection:
            for table in metadata.sorted_tables:
                _copy_table(reader, connection, table)
    with closing(sqlite3.connect(to)) as file:
        file.execute("PRAGMA journal_mode=DELETE")
    return counts


def _copy_table(source: Connection, target: Connection, table: Table) -> None:
    for rows in _pages(source, table):
        target.execute(insert(table), rows)


def _pages(source: Connection, table: Table) -> Iterator[list[dict[str, Any]]]:
    """Yield all rows in the order of the primary key, in pages, because drivers fetch a whole result at once."""
    key: Sequence[Column[Any]] = list(table.primary_key.columns)
    last: tuple[Any, ...] | None = None
    while True:
        query = select(table).order_by(*key).limit(PAGE)
        if last is not None:
            query = query.where(tuple_(*key) > tuple_(*last))
        rows = [dict(row) for row in source.execute(query).mappings()]
        if rows:
            yield rows
        if len(rows) < PAGE:
            return
        last = tuple(rows[-1][column.name] for column in key)


def _counts(connection: Connection) -> dict[str, int]:
    return {
        name: int(connection.execute(select(func.count()).select_from(table)).scalar_one())
        for name, table in sorted(metadata.tables.items())
    }


def _set_counters(connection: Connection) -> None:
    """Move Postgres' sequences past the copied rows, which brought their own numbers."""
    for table in metadata.sorted_tables:
        if "seq" in table.c:
            top = select(func.coalesce(func.max(table.c.seq), 0) + 1).scalar_subquery()
            connection.execute(select(func.setval(text(f"pg_get_serial_sequence('{table.name}', 'seq')"), top, False)))
