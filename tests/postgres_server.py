"""Starts a Postgres server to throw away, for tests and benchmarks; it needs Debian's `postgresql`, or `initdb`."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def binaries() -> Path | None:
    """Return the folder of the newest `initdb` here; None where Postgres is not installed."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    found = str(debian[-1]) if debian else shutil.which("initdb")
    return Path(found).parent if found else None


class PostgresServer:
    """Runs a server on a port and in a folder of its own. Postgres refuses to run as root, so root becomes nobody."""

    def __init__(self, *, durable: bool) -> None:
        programs = binaries()
        assert programs is not None, "no Postgres server here: apt-get install postgresql"
        self._programs = programs
        self._user = "nobody" if os.getuid() == 0 else None
        self._folder = Path(tempfile.mkdtemp(prefix="prefloop-pg-"))
        if self._user:
            os.chown(self._folder, pwd.getpwnam(self._user).pw_uid, -1)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"postgresql+pg8000://prefloop@127.0.0.1:{port}"
        self._options = f"-h 127.0.0.1 -p {port} -k {self._folder} -c max_connections=50"
        self._options += "" if durable else " -c fsync=off"
        self._data = self._folder / "data"
        self._run("initdb", "-D", self._data, "-U", "prefloop", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")

    def start(self) -> None:
        log = self._folder / "log"
        self._run("pg_ctl", "start", "-w", "-D", self._data, "-l", log, "-o", self._options)

    def stop(self, mode: str = "immediate") -> None:
        """Stop the server. mode: "immediate" is a crash, "fast" ends every connection in order."""
        self._run("pg_ctl", "stop", "-w", "-m", mode, "-D", self._data)

    def remove(self) -> None:
        shutil.rmtree(self._folder)

    def _run(self, *command: object) -> None:
        words = [str(self._programs / str(command[0])), *map(str, command[1:])]
        subprocess.run(words, user=self._user, cwd=self._folder, check=True, stdout=subprocess.DEVNULL, timeout=120)


@contextmanager
def restartable_postgres(*, durable: bool = False) -> Iterator[PostgresServer]:
    """Yield a running server. durable: commits reach the disk, as in real use."""
    server = PostgresServer(durable=durable)
    server.start()
    try:
        yield server
    finally:
        server.stop()
        server.remove()


@contextmanager
def postgres_server(*, durable: bool = False) -> Iterator[str]:
    """Yield the URL of a running server, without a database name."""
    with restartable_postgres(durable=durable) as server:
        yield server.url


def fresh_database(server: str) -> str:
    """Return the URL of a new, empty database of that server."""
    from sqlalchemy import create_engine

    name = f"t{os.urandom(6).hex()}"
    engine = create_engine(f"{server}/postgres", isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    return f"{server}/{name}"
