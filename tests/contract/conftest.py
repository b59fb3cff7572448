"""Says where the contract suites run: on every database in which a store can live."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from postgres_server import binaries, fresh_database, postgres_server
from prefloop.store import Store

Opener = Callable[[], Store]


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """Yield the URL of a throw-away server, without a database name."""
    pytest.importorskip("pg8000", reason="pg8000 is not installed: pip install 'prefloop[postgres]'")
    if binaries() is None:
        pytest.skip("no Postgres server here: apt-get install postgresql")
    with postgres_server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    """Return a function that opens the same fresh store, as often as it is called."""
    if request.param == "sqlite":
        url = "sqlite:///store.db"
    else:
        url = fresh_database(request.getfixturevalue("postgres"))
    opened: list[Store] = []

    def open_it() -> Store:
        opened.append(Store.open(url, tmp_path))
        return opened[-1]

    yield open_it
    for store in opened:
        store.close()


@pytest.fixture
def store(opener: Opener) -> Store:
    return opener()


@pytest.fixture
def fresh_postgres(postgres: str) -> str:
    """Return the URL of an empty database."""
    return fresh_database(postgres)
