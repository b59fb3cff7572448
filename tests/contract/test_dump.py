"""A copy of the store goes from any database to any, is exact, and is of one moment while others write."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import insert

from prefloop.errors import StoreError
from prefloop.project.project import Project
from prefloop.stages.backup.backup import backup, restore
from prefloop.store import ModelRow, Store
from prefloop.store import dump as dump_module
from prefloop.store.dump import dump, inspect, load
from prefloop.store.schema import audit, metadata, people
from prefloop.store.stream import every_item
from prefloop.types import Completion, Demonstration, Item, Message, Prompt, Ranking, Snapshot


def item(n: int) -> Item:
    key = f"i{n:05d}"
    made = tuple(
        Completion(f"{key}:c{j}", f"answer \u202e {j} \U0001f600", token_ids=(j, 70000), logprobs=(-0.1, -1e-300))
        for j in range(3)
    )
    first = Ranking(key, "ann", "helpful", ((f"{key}:c2",), (f"{key}:c0", f"{key}:c1")), duration_s=0.1 + n)
    edit = Ranking(key, "ann", "helpful", ((f"{key}:c0",), (f"{key}:c1",)), supersedes=first.id, ordinal=1)
    return Item(key, Prompt((Message("user", f"question {n}"),), "be kind"), made, (first, edit), metadata={"n": n})


def filled(store: Store, items: int = 12) -> Store:
    store.add([item(n) for n in range(items)])
    store.add([Demonstration(Prompt("hi"), "hello")])
    ids = tuple(sorted(r.id for i in store.items() for r in i.rankings))
    store.add_model(ModelRow("reward-001", "reward", "x", snapshot_hash=store.add_snapshot(Snapshot("rankings", ids))))
    person = dict.fromkeys(("taken", "gold_taken", "done", "skipped"), 0)
    row = {
        **person,
        "id": "p-1",
        "role": "owner",
        "groups": "[]",
        "disabled": False,
        "created_at": 1.5,
        "cursors": "{}",
    }
    with store._database.write() as connection:
        connection.execute(insert(people), row)
        connection.execute(insert(audit), {"at": 2.5, "who": None, "what": "made", "object": "p-1"})
    return store


def contents(store: Store) -> dict[str, list[tuple[object, ...]]]:
    with store._database.read() as connection:
        return {
            table.name: [tuple(row) for row in connection.execute(table.select().order_by(*table.primary_key.columns))]
            for table in metadata.sorted_tables
        }


def opened(file: Path) -> Store:
    return Store.open(f"sqlite:///{file.name}", file.parent, create=False)


def test_a_dump_holds_every_row_of_every_table(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dump_module, "PAGE", 5)
    counts = dump(filled(store), tmp_path / "copy.db")
    assert counts["rankings"] == 24 and counts["snapshot_members"] == 12 and counts["people"] == 1
    assert inspect(tmp_path / "copy.db") == counts
    with opened(tmp_path / "copy.db") as copy:
        assert contents(copy) == contents(store)
        assert list(every_item(copy)) == list(every_item(store))
        assert copy.check() == []


def test_a_dump_goes_back_into_any_database_which_then_goes_on_counting(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dump_module, "PAGE", 5)
    with Store.open("sqlite:///first.db", tmp_path) as first:
        before = contents(filled(first))
        counts = dump(first, tmp_path / "copy.db")
    assert load(tmp_path / "copy.db", store) == counts
    assert contents(store) == before
    store.add([item(99)])  # It fails where the next number is one that is taken.
    assert store.counts()["items"] == 13
    with pytest.raises(StoreError, match="nothing is overwritten"):
        load(tmp_path / "copy.db", store)
    assert store.counts()["items"] == 13


def test_a_dump_is_of_one_moment_while_others_write(opener: Callable[[], Store], tmp_path: Path) -> None:
    """Each transaction adds ten items with two rankings each: a copy that saw half of one would have an odd number."""
    store, other = filled(opener(), 300), opener()
    stop = threading.Event()
    written: list[int] = []

    def write() -> None:
        n = 1000
        while not stop.is_set():
            other.add([item(n + j) for j in range(10)])
            n += 10
            written.append(n)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        copies = []
        for k in range(3):
            before = len(written)
            while len(written) == before:
                pass
            copies.append((tmp_path / f"copy{k}.db", dump(store, tmp_path / f"copy{k}.db")))
    finally:
        stop.set()
        writer.join()
    sizes = [counts["items"] for _, counts in copies]
    assert sizes == sorted(sizes) and sizes[-1] > sizes[0]
    for path, counts in copies:
        assert counts["rankings"] == 2 * counts["items"] and (counts["items"] - 300) % 10 == 0
        with opened(path) as copy:
            assert copy.check() == []


@pytest.mark.parametrize("step", ["_file_counts", "_counts", "_copy_table"])
def test_what_is_written_during_the_copy_is_not_in_it(
    opener: Callable[[], Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """After each step of a copy somebody writes; the steps themselves are the real ones."""
    store, other = filled(opener()), opener()
    before, taken = contents(store), getattr(dump_module, step)
    number = iter(range(100, 200))

    def with_a_write_after(*args: object) -> object:
        result = taken(*args)
        other.add([item(next(number))])
        return result

    monkeypatch.setattr(dump_module, step, with_a_write_after)
    dump(store, tmp_path / "copy.db")
    with opened(tmp_path / "copy.db") as copy:
        assert contents(copy) == before


def test_a_damaged_dump_is_refused(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "copy.db"
    dump(filled(store), path)
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("DELETE FROM prompts WHERE seq = 1")
    with pytest.raises(StoreError, match="damaged"):
        inspect(path)
    content = bytearray(path.read_bytes())
    content[4096:12000] = b"x" * (12000 - 4096)
    path.write_bytes(content)
    with pytest.raises(StoreError):
        inspect(path)


def test_an_existing_file_is_not_replaced(store: Store, tmp_path: Path) -> None:
    (tmp_path / "copy.db").write_text("mine")
    with pytest.raises(StoreError, match="exists already"):
        dump(store, tmp_path / "copy.db")
    assert (tmp_path / "copy.db").read_text() == "mine"


def test_a_project_moves_from_sqlite_to_postgres_and_back(fresh_postgres: str, tmp_path: Path) -> None:
    root = tmp_path / "here"
    root.mkdir()
    (root / "prefloop.toml").write_text("# ours\n[data]\nheldout = 0.25 # a quarter\n")
    with Project.open(root, quiet=True) as project:
        before = contents(filled(project.store))
        backup(project, tmp_path / "one")
    there = tmp_path / "there"
    restore(tmp_path / "one", there, (f"project.store={fresh_postgres}",))
    with pytest.raises(StoreError, match="nothing is overwritten"):
        restore(tmp_path / "one", tmp_path / "more", (f"project.store={fresh_postgres}",))
    assert not (tmp_path / "more").exists()
    assert sorted(p.name for p in there.iterdir()) == ["prefloop.toml"]
    with Project.open(there, quiet=True) as project:
        assert project.config.data.heldout == 0.25 and "# a quarter" in (there / "prefloop.toml").read_text()
        assert contents(project.store) == before
        backup(project, tmp_path / "two")
    restore(tmp_path / "two", tmp_path / "back", ("project.store=sqlite:///kept/b.db",))
    with Project.open(tmp_path / "back", quiet=True) as project:
        assert contents(project.store) == before
    assert (tmp_path / "back" / "kept" / "b.db").is_file()
