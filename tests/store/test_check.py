"""`Store.check` finds what other programs did to the file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefloop.store import Store
from prefloop.types import Completion, Item, Prompt, Ranking, Snapshot


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open("sqlite:///store.db", tmp_path) as opened:
        for key in ("i1", "i2"):
            completions = tuple(Completion(f"{key}:c{j}", f"answer {j}") for j in range(3))
            ranking = Ranking(key, "ann", "quality", ((f"{key}:c0",), (f"{key}:c1", f"{key}:c2")))
            opened.add([Item(key, Prompt(f"question {key}"), completions, (ranking,))])
            opened.add_snapshot(Snapshot("rankings", (ranking.id,)))
        yield opened


@pytest.mark.parametrize(
    ("tampering", "said"),
    [
        ("DELETE FROM completions WHERE id = 'i1:c2'", "'i1:c2' is not a completion of this item"),
        ("""UPDATE rankings SET tiers = '[["i1:c0"],["i1:c0"]]' WHERE item_id = 'i1'""", "names i1:c0 twice"),
        ("DELETE FROM prompts WHERE content LIKE '%i2%'", "refers to a row of prompts that does not exist"),
        ("UPDATE prompts SET content = '\"edited\"' WHERE content LIKE '%i1%'", "was edited"),
        ("UPDATE completions SET prompt_id = (SELECT min(id) FROM prompts)", "answers another prompt"),
        ("DELETE FROM rankings WHERE item_id = 'i1'", "1 of its rankings are not in the store"),
        ("UPDATE snapshot_members SET member_id = 'x' || member_id", "do not give its hash"),
    ],
)
def test_each_kind_of_tampering_is_found(store: Store, tmp_path: Path, tampering: str, said: str) -> None:
    assert store.check() == []
    with sqlite3.connect(tmp_path / "store.db") as connection:
        connection.execute(tampering)
    connection.close()
    assert any(said in problem for problem in store.check()), store.check()
