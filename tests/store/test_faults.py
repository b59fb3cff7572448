"""A database file survives what goes wrong around it: damage, full disks, kills, other programs, other versions."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, event

from prefloop.errors import BusyError, StoreError
from prefloop.store import Store
from prefloop.store.connections import database
from prefloop.store.connections.database import sqlite_warnings
from prefloop.store.migrate import alembic_config
from prefloop.store.schema import HEAD, metadata
from prefloop.types import Completion, Item, Prompt, Ranking

URL = "sqlite:///store.db"


def item(n: int, size: int = 10) -> Item:
    key = f"i{n}"
    completions = tuple(Completion(f"{key}:c{j}", f"{j}" * size) for j in range(4))
    tiers = tuple((completion.id,) for completion in completions)
    return Item(key, Prompt(f"question {n}"), completions, (Ranking(key, "ann", "quality", tiers),))


# -- kills


WRITER = """
import sys
from pathlib import Path
from prefloop.store import Store
sys.path.insert(0, sys.argv[3])
from test_faults import item
store = Store.open("sqlite:///store.db", Path(sys.argv[1]))
n = int(sys.argv[2])
while True:
    store.add([item(n)])
    print(n, flush=True)
    n += 1
"""


@pytest.mark.slow
def test_no_acknowledged_item_is_lost_or_halved_in_25_kills(tmp_path: Path) -> None:
    acknowledged = 0
    for _ in range(25):
        command = [sys.executable, "-c", WRITER, str(tmp_path), str(acknowledged), str(Path(__file__).parent)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            first = writer.stdout.readline()
            time.sleep(0.01 + int.from_bytes(os.urandom(1), "big") / 2550)  # It is 10 to 110 ms into its work.
            writer.send_signal(signal.SIGKILL)
            said = [first, *writer.stdout.readlines()]
        acknowledged = int(next(line for line in reversed(said) if line.endswith("\n"))) + 1
    with Store.open(URL, tmp_path) as store:
        found = list(store.items())
        assert store.check() == []
    assert acknowledged <= len(found) <= acknowledged + 1  # The last one may be in without having been acknowledged.
    assert found == [item(n) for n in range(len(found))]
    assert acknowledged > 100


def test_a_migration_killed_at_any_statement_leaves_a_store_that_opens(tmp_path: Path) -> None:
    """Each child dies at its N-th statement; whatever it left, the next open makes it whole."""
    script = """
        import os, sys
        from pathlib import Path
        from sqlalchemy import Engine, event
        from prefloop.store import Store
        import alembic.command  # once, not in each child

        root, n = Path(sys.argv[1]), 0
        while True:
            n += 1
            child = os.fork()
            if child == 0:
                left = n
                def die(*_):
                    global left
                    left -= 1
                    if left == 0:
                        os._exit(9)
                event.listen(Engine, "after_cursor_execute", die)
                Store.open(f"sqlite:///{n}.db", root)
                os._exit(0)
            _, status = os.waitpid(child, 0)
            if os.waitstatus_to_exitcode(status) == 0:
                print(n)
                sys.exit()
            with Store.open(f"sqlite:///{n}.db", root) as store:
                assert store.check() == [] and store.counts()["items"] == 0
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20  # It did die on the way.


# -- migrations


def test_the_migrations_build_exactly_the_tables_of_the_schema(tmp_path: Path) -> None:
    Store.open(URL, tmp_path).close()
    engine = create_engine(f"sqlite:///{tmp_path}/store.db")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()
    assert ScriptDirectory.from_config(alembic_config()).get_current_head() == HEAD


def test_a_store_of_a_newer_program_is_left_alone(tmp_path: Path) -> None:
    Store.open(URL, tmp_path).close()
    with sqlite3.connect(tmp_path / "store.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(StoreError, match="newer prefloop.*9999.*pip install --upgrade"):
        Store.open(URL, tmp_path)


def test_a_store_that_should_exist_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="prefloop init"):
        Store.open(URL, tmp_path, create=False)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "store.db").touch()
    with pytest.raises(StoreError, match="empty database.*prefloop init"):
        Store.open(URL, tmp_path, create=False)


def test_eight_programs_may_open_a_new_store_at_once(tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def open_and_add(n: int) -> None:
        try:
            with Store.open(URL, tmp_path) as store:
                store.add([item(n)])
        except BaseException as error:  # noqa: BLE001 - a thread's failure must reach the test
            failures.append(error)

    threads = [threading.Thread(target=open_and_add, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with Store.open(URL, tmp_path) as store:
        assert store.counts()["items"] == 8


# -- files that are not what they should be


def test_a_file_that_is_no_database_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_bytes(b"Dear diary, " * 1000)
    with pytest.raises(StoreError, match=r"not a database.*\[project\] store"):
        Store.open(URL, tmp_path)
    assert (tmp_path / "store.db").read_bytes() == b"Dear diary, " * 1000


def test_the_database_of_another_program_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "store.db") as connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")
    connection.close()
    with pytest.raises(StoreError, match="not prefloop's.*recipes"):
        Store.open(URL, tmp_path)


def test_a_damaged_page_is_reported_with_advice_and_never_read_as_data(tmp_path: Path) -> None:
    with Store.open(URL, tmp_path) as store:
        store.add(item(n, size=500) for n in range(300))
    path = tmp_path / "store.db"
    whole = path.read_bytes()
    first, last = 100 * 4096, 20 * 4096  # The schema lies within the first 100 pages.
    path.write_bytes(whole[:first] + b"\xff" * (len(whole) - first - last) + whole[-last:])
    with Store.open(URL, tmp_path) as store:
        assert store.check() != []
        with pytest.raises(StoreError, match=r"malformed.*\.recover"):
            list(store.items())


def test_a_truncated_file_is_reported(tmp_path: Path) -> None:
    with Store.open(URL, tmp_path) as store:
        store.add(item(n) for n in range(300))
    path = tmp_path / "store.db"
    path.write_bytes(path.read_bytes()[: 20 * 4096 + 17])
    with pytest.raises(StoreError, match="malformed"), Store.open(URL, tmp_path) as store:
        list(store.items())


def test_a_folder_in_place_of_the_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "store.db").mkdir()
    with pytest.raises(StoreError, match="is a folder"):
        Store.open(URL, tmp_path)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("prefloop.db", "no store URL"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("mysql://me@host/name", "mysql is not supported"),
    ],
)
def test_a_url_that_cannot_be_a_store_says_what_to_write(tmp_path: Path, url: str, said: str) -> None:
    with pytest.raises(StoreError, match=said + ".*sqlite:///prefloop.db"):
        Store.open(url, tmp_path)


# -- full disks


def test_a_full_disk_is_named_and_earlier_work_is_kept(tmp_path: Path) -> None:
    with Store.open(URL, tmp_path) as store:
        store.add(item(n) for n in range(50))
        with store._database.write() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 2}")
        with pytest.raises(StoreError, match="disk is full.*Free some space"):
            store.add([item(50, size=50_000)])
        with store._database.write() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
        assert store.counts()["items"] == 50 and store.check() == []
        store.add([item(50, size=50_000)])
        assert store.item("i50") == item(50, size=50_000)


def test_a_file_size_limit_of_the_system_is_named_too(tmp_path: Path) -> None:
    script = """
        import resource, signal, sys
        from pathlib import Path
        sys.path.insert(0, sys.argv[2])
        from test_faults import item
        from prefloop.errors import StoreError
        from prefloop.store import Store
        store = Store.open("sqlite:///store.db", Path(sys.argv[1]))
        store.add([item(0)])
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
        try:
            store.add([item(1, size=500_000)])
        except StoreError as error:
            assert "Free some space" in str(error), error
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            assert store.counts()["items"] == 1 and store.check() == []
            store.add([item(1, size=500_000)])
            sys.exit(7)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 7, done.stderr
    with Store.open(URL, tmp_path) as store:
        assert store.counts()["items"] == 2


# -- settings that protect


def test_commits_are_synced_written_ahead_and_hold_foreign_keys(tmp_path: Path) -> None:
    with Store.open(URL, tmp_path) as store, store._database.write() as connection:
        found = {
            pragma: connection.exec_driver_sql(f"PRAGMA {pragma}").scalar_one()
            for pragma in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30_000}


def test_readers_cannot_write(tmp_path: Path) -> None:
    with (
        Store.open(URL, tmp_path) as store,
        pytest.raises(StoreError, match="readonly"),
        store._database.read() as connection,
    ):
        connection.exec_driver_sql("DELETE FROM prompts")


def test_a_writer_that_never_ends_is_reported_as_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.2)
    with Store.open(URL, tmp_path) as store:
        other = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(BusyError, match="locked"):
            store.add([item(0)])
        other.execute("ROLLBACK")
        other.close()
        store.add([item(0)])


def test_threads_that_write_at_once_all_get_their_turn(tmp_path: Path) -> None:
    with Store.open(URL, tmp_path) as store:
        store.add(item(n) for n in range(20))

        def rank(annotator: str) -> None:
            for n in range(20):
                store.add_rankings([Ranking(f"i{n}", annotator, "tone", ((f"i{n}:c0",),))])

        threads = [threading.Thread(target=rank, args=(f"ann {n}",)) for n in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert store.criteria() == {"tone": 200, "quality": 20}


@pytest.mark.parametrize(
    ("version", "affected"),
    [
        ((3, 6, 23), False),
        ((3, 7, 0), True),
        ((3, 40, 1), True),
        ((3, 44, 5), True),
        ((3, 44, 6), False),
        ((3, 45, 0), True),
        ((3, 50, 6), True),
        ((3, 50, 7), False),
        ((3, 51, 2), True),
        ((3, 51, 3), False),
        ((3, 52, 0), False),
    ],
)
def test_the_wal_reset_bug_is_known_by_version(version: tuple[int, ...], affected: bool) -> None:
    assert bool(sqlite_warnings(version, "wal")) == affected


def test_a_store_without_its_write_ahead_log_warns() -> None:
    assert "network drives" in sqlite_warnings((3, 51, 3), "delete")[0]


# -- how much is asked of the database


def test_the_number_of_queries_does_not_grow_with_the_items(tmp_path: Path) -> None:
    def queries(items: int) -> int:
        with Store.open(f"sqlite:///{items}.db", tmp_path) as store:
            store.add(item(n) for n in range(items))
            seen: list[str] = []
            event.listen(store._database._reader, "before_cursor_execute", lambda *call: seen.append(call[2]))
            assert len(list(store.items(split="train"))) <= items
            return len(seen)

    assert queries(200) == queries(20) <= 5


def test_closing_leaves_one_file(tmp_path: Path) -> None:
    with Store.open(URL, tmp_path) as store:
        store.add([item(0)])
        list(store.items())
    assert [path.name for path in tmp_path.iterdir()] == ["store.db"]
