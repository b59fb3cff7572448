"""The SQL of docs/store.md runs, and gives what the page says."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

from prefloop.store import ModelRow, Store
from prefloop.types import Completion, Item, Prompt, Ranking, Snapshot

PAGE = Path(__file__).resolve().parents[2] / "docs" / "store.md"


def test_the_documented_queries_agree_with_the_store(tmp_path: Path) -> None:
    labels_of_model, effective = re.findall(r"```sql\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    item = Item("i1", Prompt("q"), (Completion("i1:c0", "a"), Completion("i1:c1", "b")))
    first = Ranking("i1", "ann", "quality", (("i1:c0",), ("i1:c1",)))
    edit = Ranking("i1", "ann", "quality", (("i1:c1",), ("i1:c0",)), supersedes=first.id)
    with Store.open("sqlite:///store.db", tmp_path) as store:
        store.add([item])
        store.add_rankings([first, edit])
        key = store.add_snapshot(Snapshot("rankings", (edit.id,)))
        store.add_model(ModelRow("rm-1", "reward", "runs/reward-001/model", snapshot_hash=key))
    connection = sqlite3.connect(tmp_path / "store.db")
    connection.row_factory = sqlite3.Row
    assert [tuple(row) for row in connection.execute(labels_of_model)] == [("rm-1", "ann", 1)]
    assert [row["id"] for row in connection.execute(effective)] == [edit.id]
    connection.close()


def test_every_table_is_on_the_page(tmp_path: Path) -> None:
    Store.open("sqlite:///store.db", tmp_path).close()
    connection = sqlite3.connect(tmp_path / "store.db")
    names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    connection.close()
    assert {name for name in names if f"`{name}`" not in PAGE.read_text(encoding="utf-8")} == {
        "alembic_version",
        "sqlite_sequence",
    }
