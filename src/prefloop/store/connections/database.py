"""Connects to a database: one writer and some readers. Driver errors become advice.

SQLite uses WAL and synchronous=FULL, so an acknowledged ranking survives power loss. Every write is BEGIN IMMEDIATE,
because a transaction that reads before it writes gets SQLITE_BUSY at once, whatever the busy timeout. Only the writer
ever commits, which keeps checkpoints on one connection, and processes take turns (`turns.py`). On Postgres one advisory
lock gives writes the same order.
"""

from __future__ import annotations

import math
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import QueuePool

from prefloop.errors import BusyError, DataError, PrefloopError, StoreError, UnavailableError
from prefloop.store.connections.turns import WriteTurns

BUSY_TIMEOUT_S = 30
# So many connections are kept open, one for each server thread; and so many more may be opened for a moment.
CONNECTIONS, SPARE = (
    8,
    8,
)
STALE_AFTER_S = 5.0  # An unused Postgres connection is tested after this time, before it is used.
_WRITE_LOCK = 0x70726566  # The key of Postgres's advisory lock spells "pref".
_ALONE_LOCK = 0x70726567
_LOCK = text("SELECT pg_advisory_xact_lock(:key)")


class Database:
    """Holds one writer connection and several readers. `label` names the store in messages, without its password.

    patience_s limits every wait: for other writers of this process, for other processes, for a free connection, and on
    Postgres for each answer of the server. Without it, only waits for SQLite's writers are limited.

    If Postgres is away, calls raise UnavailableError, and the next call connects again.
    """

    def __init__(self, url: URL, patience_s: float | None = None) -> None:
        self.sqlite = url.get_backend_name() == "sqlite"
        self.label = str(url.database) if self.sqlite else url.render_as_string(hide_password=True)
        self._writing, self._patience_s = threading.Lock(), patience_s or BUSY_TIMEOUT_S
        self._file: tuple[int, int] | None = None  # This is the identity of the file that SQLite has open.
        self._turns = WriteTurns(Path(self.label).resolve()) if self.sqlite else None
        make = _sqlite_engine if self.sqlite else _postgres_engine
        self._writer = make(url, patience_s, write=True)
        self._reader = make(url, patience_s, write=False, size=CONNECTIONS)
        self._worker = self._writer if self.sqlite else make(url, patience_s, write=True, size=CONNECTIONS)

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Open one write transaction: it commits at the end, or leaves nothing behind."""
        self._look_for_file()
        turn = self._turns.mine(self._patience_s) if self._turns else nullcontext()
        with self._one_at_a_time(), explain(self.label), turn, self._writer.begin() as connection:
            self.in_order(connection)
            yield connection

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        if not self._writing.acquire(timeout=self._patience_s):
            raise BusyError(f"{self.label}: others have been writing for {self._patience_s:.0f} s. Try again.")
        try:
            yield
        finally:
            self._writing.release()

    def _look_for_file(self) -> None:
        """Raise UnavailableError if the SQLite file was moved, deleted or replaced, until it is back.

        SQLite would go on with the old file, and what it acknowledges would be lost.
        """
        if not self.sqlite:
            return
        try:
            found = os.stat(self.label)
        except FileNotFoundError:
            if self._file is None:
                return  # The first connection makes the file.
            raise UnavailableError(f"{self.label} was moved or deleted while it was open. Put it back.") from None
        self._file = self._file or (found.st_dev, found.st_ino)
        if self._file != (found.st_dev, found.st_ino):
            raise UnavailableError(
                f"{self.label} is another file than the one that was opened. Put the first one back, or start again."
            )

    @contextmanager
    def work(self, *, alone: bool = False) -> Iterator[Connection]:
        """Open a write transaction that on Postgres runs beside others. On SQLite it is `write`.

        It must lock the rows it changes in this order: a person, tasks, then `in_order`.
        alone: run no other such transaction at the same time; for changes of several people or many tasks at once
        """
        if self.sqlite:
            with self.write() as connection:
                yield connection
        else:
            with explain(self.label), self._worker.begin() as connection:
                if alone:
                    connection.execute(_LOCK, {"key": _ALONE_LOCK})
                yield connection

    def in_order(self, connection: Connection) -> None:
        """Wait for other writers from here on, so that rows appear in the order of their `seq`.

        Then somebody who reads on from the last number seen misses no row. Call it last, just before such an insert.
        """
        if not self.sqlite:
            connection.execute(_LOCK, {"key": _WRITE_LOCK})

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a read transaction. Keep it short, because long readers hold up checkpoints.

        On SQLite it sees one moment. On Postgres each statement sees what is committed by then.
        """
        self._look_for_file()
        with explain(self.label), self._reader.connect() as connection:
            yield connection

    def close(self) -> None:
        """Close readers first, so that the writer is the last and moves the write-ahead log into the file."""
        for engine in (self._reader, self._worker, self._writer):
            engine.dispose()
        if self._turns:
            self._turns.close()

    def warnings(self) -> list[str]:
        """Return the settings and versions that endanger data; each sentence says what to do."""
        with self.read() as connection:
            if self.sqlite:
                # A new connection knows its version only after a query.
                connection.exec_driver_sql("SELECT 1 FROM sqlite_master")
                mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar_one()
                return sqlite_warnings(sqlite3.sqlite_version_info, str(mode))
            settings = {name: connection.exec_driver_sql(f"SHOW {name}").scalar_one() for name in _POSTGRES_SAFETY}
        return [
            f"Postgres runs with {name} = off: rankings can be lost in a crash. Set {name} = on in postgresql.conf."
            for name, value in settings.items()
            if value == "off"
        ]


_POSTGRES_SAFETY = ("fsync", "full_page_writes", "synchronous_commit")


def resolve(url: str, root: Path) -> URL:
    """Check a store URL and make a SQLite path absolute. Raises StoreError."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise StoreError(f"{url!r} is no store URL. Write sqlite:///prefloop.db or {_POSTGRES_EXAMPLE}") from None
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        if not parsed.database or parsed.database == ":memory:" or parsed.database.startswith("file:"):
            raise StoreError(f"{url!r} names no file; a store must outlive its process. Write sqlite:///prefloop.db")
        return parsed.set(drivername="sqlite", database=str(root / parsed.database))
    if backend == "postgresql":
        return parsed.set(drivername="postgresql+pg8000") if parsed.drivername == "postgresql" else parsed
    raise StoreError(f"a store on {backend} is not supported. Use sqlite:///prefloop.db or {_POSTGRES_EXAMPLE}")


_POSTGRES_EXAMPLE = "postgresql+pg8000://user:password@host/name"


def _pool(size: int, patience_s: float | None) -> dict[str, Any]:
    found = {"pool_size": size, "max_overflow": 0 if size == 1 else SPARE}
    return found if patience_s is None else found | {"pool_timeout": patience_s}


def _connector(engine: Engine) -> Callable[..., Any]:
    """Return the driver's connect function. pg8000's connections prepare statements that are repeated."""
    if engine.dialect.driver != "pg8000":
        return engine.dialect.connect
    from prefloop.store.connections.prepared import (
        PreparingConnection,  # The import stands here, where the driver is known to be installed.
    )

    return PreparingConnection


def _postgres_engine(url: URL, patience_s: float | None, *, write: bool, size: int = 1) -> Engine:
    """Return an engine whose readers commit by themselves: no BEGIN and ROLLBACK surround a single SELECT."""
    pool = _pool(size, patience_s)
    if patience_s is not None:
        pool["connect_args"] = {"timeout": patience_s}
    if not write:
        pool["isolation_level"] = "AUTOCOMMIT"
    try:
        engine = create_engine(url, **pool)
    except (ImportError, NoSuchModuleError) as error:
        raise StoreError(f"no driver for {url.drivername} ({error}). Run: pip install 'prefloop[postgres]'") from None

    connected = _connector(engine)

    @event.listens_for(engine, "checkin")
    def used(_connection: object, record: Any) -> None:
        record.info["used"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def look(connection: Any, record: Any, _proxy: object) -> None:
        """Test a connection that was unused for a while. A server that was restarted has forgotten its connections.

        A test before each use would cost a round trip.
        """
        if time.monotonic() - record.info.get("used", math.inf) > STALE_AFTER_S:
            try:
                engine.dialect.do_ping(connection)
            except Exception as error:  # Whatever error the driver raises, the pool makes a new connection.
                raise DisconnectionError from error

    @event.listens_for(engine, "do_connect")
    def connect(dialect: Any, _record: object, words: Any, options: Any) -> Any:
        """Connect, and translate the errors that the operating system raises if a server goes away meanwhile."""
        try:
            return connected(*words, **options)
        except OSError as error:
            raise dialect.loaded_dbapi.InterfaceError(f"network error: {error}") from error

    @event.listens_for(engine, "handle_error")
    def lost(context: Any) -> UnavailableError | None:
        """Return an error if the connection was lost, because a lost connection must not be used again.

        The driver's dialect knows few of the ways to lose a server.
        """
        error = context.original_exception
        if isinstance(error, OSError):
            context.is_disconnect = True
            return UnavailableError(f"the connection to Postgres was lost: {error}. Check that the server runs.")
        context.is_disconnect |= any(needle in str(error).lower() for needle in _AWAY)
        return None

    return engine


def _sqlite_engine(url: URL, patience_s: float | None, *, write: bool, size: int = 1) -> Engine:
    connect = {"timeout": patience_s or BUSY_TIMEOUT_S, "check_same_thread": False}
    engine = create_engine(url, poolclass=QueuePool, connect_args=connect, **_pool(size, patience_s))

    @event.listens_for(engine, "connect")
    def set_up(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # The driver must not begin transactions on its own: on_begin does.
        pragmas = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON") if write else ("query_only=ON",)
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        # It is sent directly, since SQLAlchemy would prepare for results.
        raw: Any = connection.connection.driver_connection
        raw.execute("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


@contextmanager
def explain(label: str) -> Iterator[None]:
    """Turn errors of a driver into errors with advice."""
    try:
        yield
    except (DBAPIError, sqlite3.Error) as error:
        reason = str(error.orig if isinstance(error, DBAPIError) else error)
        raise _translate(label, reason) from error
    except PoolTimeout as error:
        raise BusyError(f"{label}: all connections are in use. Try again in a few seconds.") from error
    except UnicodeEncodeError as error:
        raise DataError(
            f"a text holds {error.object[error.start : error.end]!r}, half of a surrogate pair, which no database can "
            "keep. Replace it in the file (text.encode('utf-8', 'replace')) and import again; nothing was written."
        ) from error


def _translate(label: str, reason: str) -> PrefloopError:
    said = reason.lower()
    for needles, kind, advice in _ADVICE:
        if any(needle in said for needle in needles):
            return kind(f"{label}: {reason}. {advice}")
    return StoreError(f"{label}: {reason}. Run: prefloop doctor")


# Postgres reports these when it is away, starts, stops, is full, or only reads; drivers use them for a broken
# connection.
_AWAY = (
    *("57p01", "57p02", "57p03", "53300", "25006", "3d000", "08000", "08003", "08006", "08001", "08004", "08p01"),
    *("can't create a connection", "communication error", "network error", "connection is closed", "timed out"),
)
_ADVICE: tuple[tuple[tuple[str, ...], type[PrefloopError], str], ...] = (
    (
        ("database or disk is full", "disk i/o error", "no space left", "disk full"),
        UnavailableError,
        "The disk is full, failing or over quota. Free some space and run the same command again: the unfinished "
        "transaction was undone, all earlier ones are kept.",
    ),
    (
        ("file is not a database", "file is encrypted"),
        StoreError,
        "Check [project] store in prefloop.toml, or put back a copy of the file; prefloop overwrites no such file.",
    ),
    (
        ("malformed",),
        StoreError,
        "The file is damaged. Put back a copy, or rescue what can be read: sqlite3 OLD.db .recover | sqlite3 NEW.db",
    ),
    (
        ("database is locked", "database table is locked"),
        BusyError,
        "Another process has been writing for too long; wait for it, or stop it.",
    ),
    (
        ("deadlock detected", "could not serialize"),
        BusyError,
        "Two writers were in each other's way, and this one has written nothing. Try again.",
    ),
    (
        ("readonly database", "unable to open", "permission denied"),
        UnavailableError,
        "Check that the folder exists and that you may write to it.",
    ),
    (
        ("byte sequence for encoding", "nul (0x00)"),
        DataError,
        "Postgres cannot keep NUL characters in text; remove them from the file.",
    ),
    (
        ("constraint",),
        DataError,
        "A row contradicts what the store already holds; nothing was written.",
    ),
    (
        (*_AWAY, "authentication failed"),
        UnavailableError,
        "Check that the server runs, and the user, password, host and database name in [project] store.",
    ),
    (
        ("does not exist",),
        StoreError,
        "Check that the server runs, and the user, password, host and database name in [project] store.",
    ),
)


def sqlite_warnings(version: tuple[int, ...], journal_mode: str) -> list[str]:
    """Return what is wrong with this SQLite; [] if nothing is."""
    found = []
    name = ".".join(map(str, version))
    if _wal_reset_bug(version):
        found.append(
            f"SQLite {name} has the WAL-reset bug: a commit that races a checkpoint can be lost. prefloop writes from "
            "one connection and one process at a time, which avoids it; do not write to the file with other programs "
            "meanwhile, or use a Python built with SQLite 3.51.3 or later."
        )
    if journal_mode != "wal":
        found.append(
            f"SQLite could not switch on its write-ahead log (journal_mode = {journal_mode}), as on network drives: "
            "several processes must not use this store at once. Move the project to a local disk."
        )
    return found


def _wal_reset_bug(version: tuple[int, ...]) -> bool:
    """Return whether the version has the WAL-reset bug.

    It is in 3.7.0 to 3.51.2, except the mended branches 3.44.6 and 3.50.7.
    """
    if not (3, 7, 0) <= version < (3, 51, 3):
        return False
    return not ((3, 44, 6) <= version < (3, 45) or (3, 50, 7) <= version < (3, 51))
