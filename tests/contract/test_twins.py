"""One list from two files is one item, on every database; what only looks the same stays two."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prefloop.exchange import read
from prefloop.exchange.build import IMPORTED, build_item, draft
from prefloop.store import Counts, Store
from prefloop.store.removal import remove
from prefloop.types import Completion, Item, Prompt

FIRST, SECOND = "0" * 64, "1" * 64


def item(
    *texts: str, id: str | None = None, who: str = IMPORTED, unranked: int = 0, prompt: str = "q", **more: Any
) -> Item:
    """Return a list of answers, ranked in this order but for the last few."""
    completions = [Completion(f"c{n}", text) for n, text in enumerate(texts)]
    tiers = [[c.id] for c in completions[: len(texts) - unranked]]
    return build_item(Prompt(prompt), completions, [draft(who, "quality", tiers, **more)], external_id=id)


def add(store: Store, first: Item, second: Item, file: str = SECOND) -> Counts:
    store.add([replace(first, row=1)], file=FIRST)
    return store.add([replace(second, row=2)], file=file)


SAME = {
    "one has an id": (item("a", "b", id="1"), item("a", "b")),
    "the other has one": (item("a", "b"), item("a", "b", id="1")),
    "another answer that nobody ranked": (item("a", "b", "c", unranked=1), item("a", "b", id="1")),
    "the same beside one more": (item("a", "b", id="1"), item("a", "b", "c", unranked=1)),
    "a named person, two ids": (item("a", "b", id="1", who="ann"), item("a", "b", id="2", who="ann")),
}
OTHER = {
    "the other way round": (item("a", "b"), item("b", "a")),
    "another question": (item("a", "b"), item("a", "b", prompt="r", id="1")),
    "another person": (item("a", "b", who="ann"), item("a", "b", id="1", who="bob")),
    "anonymous, two ids": (item("a", "b", id="1"), item("a", "b", id="2")),
    "one more answer in the ranking": (item("a", "b"), item("a", "b", "c", id="1")),
    "one is unacceptable": (item("a", "b"), item("a", "b", id="1", unacceptable=("c1",))),
    "another day": (item("a", "b", created_at="2026-01-01"), item("a", "b", id="1", created_at="2026-01-02")),
}


@pytest.mark.parametrize("case", SAME)
def test_the_same_judgement_from_another_file_adds_nothing(store: Store, case: str) -> None:
    first, second = SAME[case]
    assert add(store, first, second) == Counts(0, 0, 0, 0, 0)
    assert [i.id for i in store.items()] == [first.id]
    assert store.add([replace(second, row=2)], file=SECOND) == Counts(0, 0, 0, 0, 0)


@pytest.mark.parametrize("case", OTHER)
def test_another_judgement_is_another_item(store: Store, case: str) -> None:
    first, second = OTHER[case]
    assert add(store, first, second).items == 1


def test_equal_records_of_one_file_stay_as_many_as_they_are(store: Store) -> None:
    assert add(store, *SAME["a named person, two ids"], file=FIRST).items == 1


def test_a_list_of_two_files_goes_with_the_last_of_them(store: Store) -> None:
    add(store, *SAME["one has an id"])
    assert remove(store, files=[FIRST]).kept == 2, "the item and its ranking"
    assert len(list(store.items())) == 1
    assert len(remove(store, files=[SECOND]).items) == 1
    assert not list(store.items()) and not store.prompts()


def test_open_assistants_two_exports_hold_151_lists_in_common(shared_data: Path, store: Store) -> None:
    trees, flat = (shared_data / "oasst" / name for name in ("trees.jsonl.gz", "ranked_replies.jsonl.gz"))
    for file, path in ((FIRST, trees), (SECOND, flat), (FIRST, trees), (SECOND, flat)):
        store.add((i for i in read(path) if isinstance(i, Item)), file=file)
    found = list(store.items())
    assert len(found) == 172 + 182 - 151 == sum(len(i.rankings) for i in found)
    assert len({json.dumps(sorted(c.text for c in i.completions)) for i in found}) == len(found)
