"""Postgres with prepared statements gives the same answers, prepares one statement once, and leaves none over."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("pg8000", reason="pg8000 is not installed: pip install 'prefloop[postgres]'")

from sqlalchemy import Connection, make_url, text
from sqlalchemy.exc import DBAPIError

from postgres_server import fresh_database
from prefloop.store.connections import prepared
from prefloop.store.connections.database import _postgres_engine, resolve


@pytest.fixture
def connection(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    url = resolve(fresh_database(postgres), tmp_path_factory.mktemp("x"))
    engine = _postgres_engine(make_url(url), None, write=True)
    with engine.connect() as opened:
        yield opened
    engine.dispose()


def in_the_server(connection: Connection) -> int:
    return int(connection.exec_driver_sql("SELECT count(*) FROM pg_prepared_statements").scalar_one())


def test_what_comes_again_is_prepared_once_and_gives_the_same(connection: Connection) -> None:
    ask = text("SELECT CAST(:a AS integer) + 1, CAST(:b AS text), CAST(:c AS double precision)")
    for n in range(5):
        row = connection.execute(ask, {"a": n, "b": f"it's {n} % ; $1", "c": None if n % 2 else n / 7}).one()
        assert tuple(row) == (n + 1, f"it's {n} % ; $1", None if n % 2 else n / 7)
        assert in_the_server(connection) == (n > 0)


def test_writes_count_their_rows(connection: Connection) -> None:
    connection.exec_driver_sql("CREATE TABLE t (a integer, b text)")
    for n in range(4):
        assert connection.execute(text("INSERT INTO t VALUES (:a, :b)"), {"a": n, "b": "x"}).rowcount == 1
    for n in range(4):
        assert connection.execute(text("UPDATE t SET b = :b WHERE a < :a"), {"a": n, "b": "y"}).rowcount == n


def test_a_transaction_begins_with_a_prepared_statement_too(connection: Connection) -> None:
    connection.exec_driver_sql("CREATE TABLE t (a integer)")
    connection.commit()
    for n in range(3):
        connection.execute(text("INSERT INTO t VALUES (:a)"), {"a": n})
        connection.rollback() if n == 1 else connection.commit()
    assert connection.execute(text("SELECT a FROM t ORDER BY a")).scalars().all() == [0, 2]


def test_a_table_that_changes_costs_one_error_and_no_more(connection: Connection) -> None:
    connection.exec_driver_sql("CREATE TABLE t (a integer)")
    connection.commit()
    ask = text("SELECT a FROM t WHERE a > :a")
    for _ in range(3):
        connection.execute(ask, {"a": 0})
    connection.exec_driver_sql("ALTER TABLE t ALTER a TYPE text")
    connection.exec_driver_sql("ALTER TABLE t ALTER a TYPE bigint USING a::bigint")
    connection.commit()
    with pytest.raises(DBAPIError, match="cached plan"):
        connection.execute(ask, {"a": 0})
    connection.rollback()
    for _ in range(3):
        assert connection.execute(ask, {"a": 0}).all() == []


def test_the_server_holds_no_more_of_them_than_the_limit(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "MOST", 5)
    for n in range(20):
        for _ in range(3):
            assert connection.execute(text(f"SELECT CAST(:a AS integer) + {n}"), {"a": 1}).scalar_one() == n + 1
    assert 1 <= in_the_server(connection) <= 5
