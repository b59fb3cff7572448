"""Where the contract suites run: every database a store can live in."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from prefloop.store import Store

Opener = Callable[[], Store]


def _postgres_binaries() -> Path | None:
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    found = str(debian[-1]) if debian else shutil.which("initdb")
    return Path(found).parent if found else None


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a throw-away server, without a database name. It refuses to run as root, so root becomes nobody."""
    pytest.importorskip("pg8000", reason="pg8000 is not installed: pip install 'prefloop[postgres]'")
    binaries = _postgres_binaries()
    if binaries is None:
        pytest.skip("no Postgres server here: apt-get install postgresql")
    user = "nobody" if os.getuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="prefloop-pg-"))
    if user:
        os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def run(*command: object) -> None:
        words = [str(binaries / str(command[0])), *map(str, command[1:])]
        subprocess.run(words, user=user, cwd=folder, check=True, stdout=subprocess.DEVNULL, timeout=120)

    run("initdb", "-D", folder / "data", "-U", "prefloop", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
    options = f"-h 127.0.0.1 -p {port} -k {folder} -c fsync=off -c max_connections=50"
    run("pg_ctl", "start", "-w", "-D", folder / "data", "-l", folder / "log", "-o", options)
    try:
        yield f"postgresql+pg8000://prefloop@127.0.0.1:{port}"
    finally:
        run("pg_ctl", "stop", "-w", "-m", "immediate", "-D", folder / "data")
        shutil.rmtree(folder)


def _fresh_database(server: str) -> str:
    from sqlalchemy import create_engine

    name = f"t{os.urandom(6).hex()}"
    engine = create_engine(f"{server}/postgres", isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    return f"{server}/{name}"


@pytest.fixture(params=["sqlite", "postgres"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    """Opens the same fresh store, as often as called."""
    if request.param == "sqlite":
        url = "sqlite:///store.db"
    else:
        url = _fresh_database(request.getfixturevalue("postgres"))
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
    """The URL of an empty database."""
    return _fresh_database(postgres)
