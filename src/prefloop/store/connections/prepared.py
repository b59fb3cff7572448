"""Runs prepared statements on Postgres through pg8000: each takes one round trip to the server in place of three.

pg8000's DBAPI parses, describes and executes each statement anew, with a wait for the server after each, and scans its
text for placeholders character by character. Its core can prepare a statement once for each connection; this cursor
uses that for statements that come again. The first statement of a transaction takes its BEGIN along, and nothing is
answered in parts.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from struct import pack
from typing import Any

from pg8000.converters import make_params
from pg8000.core import BIND, EXECUTE, SYNC, Context, _flush
from pg8000.dbapi import convert_paramstyle
from pg8000.exceptions import DatabaseError
from pg8000.legacy import Connection, Cursor

_BEGIN = "begin transaction"
MOST = 200  # A connection has so many prepared statements, because the server keeps a plan for each.


class PreparingConnection(Connection):  # type: ignore[misc]
    """Wraps a pg8000 connection, and its cursors prepare the statements that come again."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Each statement has its prepared (name, columns, converters), or None.
        self.seen: OrderedDict[str, Any] = OrderedDict()
        self._beginning = False  # Whether a BEGIN was written whose answer has not been read.

    def begin(self) -> None:
        """Begin a transaction. It goes to the server with the next statement, and is answered before that."""
        self.send_QUERY(_BEGIN)
        self._beginning = True

    def handle_messages(self, context: Any) -> None:
        """Read the answer to a statement, after that to a BEGIN. Both are read before an error of either is raised."""
        if not self._beginning:
            super().handle_messages(context)
            return
        self._beginning = False
        try:
            super().handle_messages(Context(_BEGIN))
        except DatabaseError:
            super().handle_messages(context)
            raise
        super().handle_messages(context)

    def execute_named(
        self, name: bytes, params: Sequence[str | None], columns: Any, converters: Any, statement: str
    ) -> Any:
        """Run a prepared statement: Bind, Execute and Sync are one message to the server, with one answer.

        pg8000's own method asks for the answer to each of the parts (Flush), so it sends three packets in place of one.
        The layout is that of "Message Formats" in Postgres's documentation.
        """
        context = Context(columns=columns, input_funcs=converters, statement=statement)
        parts = [b"\0", name, pack("!HH", 0, len(params))]  # This is the unnamed portal; all parameters are text.
        for value in params:
            sent = None if value is None else value.encode(self._client_encoding)
            parts += [pack("!i", -1)] if sent is None else [pack("!i", len(sent)), sent]
        self._send_message(BIND, b"".join([*parts, pack("!H", 0)]))  # All columns are text, too.
        self._send_message(EXECUTE, b"\0" + pack("!i", 0))  # The 0 asks for all rows.
        self._send_message(SYNC, b"")
        _flush(self._sock)
        self.handle_messages(context)
        return context

    def cursor(self) -> PreparingCursor:
        return PreparingCursor(self)


class PreparingCursor(Cursor):  # type: ignore[misc]
    """Works as pg8000's cursor, except that it prepares statements with parameters when they come again."""

    def execute(self, operation: str, args: Any = (), stream: Any = None) -> PreparingCursor:
        connection = self._c
        if connection is None or stream is not None or len(args) == 0 or self._input_oids:
            super().execute(operation, args, stream)
            return self
        statement = _numbered(self.paramstyle, operation)
        if statement not in connection.seen:
            self._remember(statement)
            super().execute(operation, args)
            return self
        try:
            prepared = connection.seen[statement]
            if prepared is None:
                prepared = connection.seen[statement] = connection.prepare_statement(statement, ())
            connection.seen.move_to_end(statement)
            name, columns, converters = prepared
            params = make_params(connection.py_types, args)
            if not connection._in_transaction and not connection.autocommit:
                connection.begin()
            self._context = connection.execute_named(name, params, columns, converters, statement)
        except Exception:
            self._forget(statement)  # A plan that no longer fits its tables is prepared again at the next call.
            raise
        self._row_iter = iter(self._context.rows or ())
        return self

    def _remember(self, statement: str) -> None:
        seen = self._c.seen
        seen[statement] = None
        if len(seen) > MOST:
            _, oldest = seen.popitem(last=False)
            if oldest is not None:
                self._c.close_prepared_statement(oldest[0])

    def _forget(self, statement: str) -> None:
        """Forget the statement only here, because in a transaction that failed the server would refuse to close it."""
        self._c.seen.pop(statement, None)


@lru_cache(maxsize=1000)
def _numbered(paramstyle: str, operation: str) -> str:
    """Return a statement with $1, $2 in place of %s. The longest texts come once and are not worth keeping."""
    statement, _ = convert_paramstyle(paramstyle, operation, ())
    return str(statement)
