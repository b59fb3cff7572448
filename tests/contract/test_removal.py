"""On every database rows go with all that hangs on them, and nothing else goes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import func, select

from prefloop.config import Annotate
from prefloop.errors import DataError
from prefloop.labels.answer import Answer
from prefloop.store import Counts, ModelRow, People, Queue, Store
from prefloop.store.origins import origins
from prefloop.store.removal import plan, remove
from prefloop.store.schema import audit, completions, drafts, leases, logprobs, removals, tasks
from prefloop.types import Completion, Demonstration, Item, Prompt, Ranking, Snapshot


def listed(n: int, row: int | None = None, source: str = "import") -> Item:
    """Return two answers to question n, ranked by a person of the file."""
    id = f"{source}{n}"
    answers = (Completion(f"{id}:a", f"yes {n}"), Completion(f"{id}:b", f"no {n}"))
    said = () if source == "sample" else (Ranking(id, "w1", "quality", ((f"{id}:a",), (f"{id}:b",))),)
    return Item(id, Prompt(f"question {n}"), answers, said, source=source, row=row)


def shown(n: int, row: int | None = None) -> Demonstration:
    return Demonstration(Prompt(f"question {n}"), f"answer {n}", row=row)


def put(store: Store, name: str, records: Iterable[Any]) -> str:
    """Store records as `prefloop import` does it."""
    file = name.replace(".jsonl", "").ljust(64, "0")
    counts = store.add(records, file=file)
    store.record_import(name, file, "pairs", counts, [])
    return file


def texts(store: Store) -> set[str]:
    return {prompt.text for prompt in store.prompts()}


def number(store: Store, table: Any) -> int:
    with store.database.read() as connection:
        return int(connection.scalar(select(func.count()).select_from(table)) or 0)


def test_a_file_goes_and_what_other_files_hold_stays(store: Store) -> None:
    first = put(store, "first.jsonl", [shown(1, 1), shown(2, 2), listed(3, 3), Prompt("question 9", row=4)])
    put(store, "second.jsonl", [shown(2, 7), listed(4, 8), listed(1, 9)])
    place = origins(store, [shown(2).id, "import4", Prompt("question 9").id])
    assert sorted(place.values()) == ["first.jsonl row 2", "first.jsonl row 4", "second.jsonl row 8"]
    planned = plan(store, files=[first])
    gone = remove(store, files=[first])
    assert planned.ids == gone.ids and gone.kept == 1
    assert [d.text for d in store.demonstrations()] == ["answer 2"]
    assert [i.id for i in store.items()] == ["import4", "import1"]
    assert texts(store) == {"question 1", "question 2", "question 4"}
    assert store.check() == [] and [(row.name, row.removed > 0) for row in store.imports()] == [
        ("first.jsonl", True),
        ("second.jsonl", False),
    ]


def test_the_same_rows_can_come_back(store: Store) -> None:
    rows = [shown(1, 1), listed(2, 2)]
    file = put(store, "all.jsonl", rows)
    before = store.counts()
    snapshot = store.add_snapshot(Snapshot("rankings", tuple(r.id for r in listed(2).rankings)))
    remove(store, files=[file])
    assert store.counts()["items"] == store.counts()["prompts"] == 0 and store.check() == []
    assert store.add(rows, file=file) == Counts(2, 1, 1, 2, 1)
    assert store.counts() == before and store.check() == [] and store.snapshot(snapshot).ids
    assert remove(store, files=[file]).ids and store.check() == [], "and go again"


def test_rankings_of_a_file_go_from_an_item_that_another_file_holds(store: Store) -> None:
    put(store, "one.jsonl", [listed(1, 1)])
    more = Ranking("import1", "w2", "quality", (("import1:b",), ("import1:a",)))
    second = put(store, "two.jsonl", [replace(listed(1, 5), rankings=(more,))])
    remove(store, files=[second])
    assert [r.annotator for r in store.item("import1").rankings] == ["w1"] and store.check() == []


def test_a_prompt_goes_with_all_that_was_sampled_for_it(store: Store) -> None:
    put(store, "all.jsonl", [shown(1, 1), shown(2, 2)])
    prompt = shown(1).prompt
    store.add([listed(1, source="sample"), listed(2, source="sample")])
    store.add_rollouts([prompt.id], [Completion("roll", "a sample")], "align-001")
    store.add_logprobs("m", {"sample1:a": -1.0, "sample2:a": -2.0})
    gone = remove(store, [shown(1).id])
    assert (len(gone.prompts), gone.sampled_items, gone.rollouts) == (1, 1, 1)
    assert texts(store) == {"question 2"} and [i.id for i in store.items()] == ["sample2"]
    assert number(store, completions) == 2 and number(store, logprobs) == 1 and store.check() == []


def test_a_prompt_that_another_row_asks_stays(store: Store) -> None:
    put(store, "all.jsonl", [shown(1, 1), listed(1, 2), Prompt("question 2", row=3), shown(2, 4)])
    remove(store, [shown(1).id, shown(2).id])
    assert texts(store) == {"question 1", "question 2"} and store.counts()["demonstrations"] == 0
    remove(store, [Prompt("question 1").id])
    assert texts(store) == {"question 2"} and store.counts()["items"] == 0


def test_prompts_of_files_whose_rows_are_not_known_stay(store: Store) -> None:
    """An older version imported them, so that nobody can tell who asks them."""
    store.record_import("old.jsonl", "f" * 64, "prompts", store.add([Prompt("question 1")]), [])
    put(store, "new.jsonl", [shown(1, 1), shown(2, 2)])
    remove(store, [shown(1).id])
    assert texts(store) == {"question 1", "question 2"}


def test_models_that_learnt_from_it_are_named_and_their_history_stays_whole(store: Store) -> None:
    put(store, "all.jsonl", [shown(1, 1), shown(2, 2), listed(3, 3)])
    snapshot = store.add_snapshot(Snapshot("demonstrations", tuple(sorted([shown(1).id, shown(2).id]))))
    other = store.add_snapshot(Snapshot("rankings", (listed(3).rankings[0].id,)))
    store.add_model(ModelRow("sft-001", "policy", "runs/sft-001/model", "base", "sft-001", "w", snapshot))
    store.add_model(ModelRow("reward-001", "reward", "runs/reward-001/model", "sft-001", "reward-001", "w", other))
    store.add_model(ModelRow("other", "reward", "runs/other/model", "base", "other", "w", other))
    gone = remove(store, [shown(1).id])
    assert [(m.version, through) for m, through in gone.models] == [("sft-001", ""), ("reward-001", "sft-001")]
    assert set(store.snapshot(snapshot).ids) == {shown(1).id, shown(2).id} and store.check() == []
    assert number(store, removals) == 2  # The two are the demonstration and its prompt.


def test_an_unknown_id_is_named_and_nothing_goes(store: Store) -> None:
    put(store, "all.jsonl", [shown(1, 1)])
    with pytest.raises(DataError, match="no prompt, demonstration or item nonsense"):
        remove(store, [shown(1).id, "nonsense"])
    assert store.counts()["demonstrations"] == 1


def test_what_people_ranked_here_goes_only_when_it_is_asked_for(store: Store) -> None:
    put(store, "all.jsonl", [shown(n, n) for n in range(1, 4)])
    store.add([listed(n, source="sample") for n in range(1, 4)])
    people = People(store)
    owner = people.accept(people.owner_link() or "", "Olga", "hash")
    queue = Queue(store, Annotate(gold_share=0.0), seed=1)
    queue.fill()
    ranked = queue.next(owner.id)
    assert ranked is not None
    queue.submit(owner.id, ranked.lease, "uuid-0001", Answer(((0,), (1,)), duration_s=3.0))
    at_work = queue.next(owner.id)
    assert at_work is not None
    queue.draft(owner.id, at_work.lease, {"placed": [0]})
    prompts = [prompt.id for prompt in store.prompts()]
    with pytest.raises(DataError, match="1 of their rankings would be lost. Say --with-rankings"):
        remove(store, prompts)
    assert store.counts()["items"] == 3 and plan(store, prompts).by_people == 1
    assert remove(store, prompts, with_rankings=True).by_people == 1
    for table in (tasks, leases, drafts, completions):
        assert number(store, table) == 0
    assert store.check() == [] and queue.next(owner.id) is None
    with store.database.read() as connection:
        assert connection.scalars(select(audit.c.object).where(audit.c.what == "remove")).all() == [
            "3 prompts 3 demonstrations 3 items 1 rankings"
        ]


def test_items_that_come_after_a_removal_are_handed_out(store: Store) -> None:
    """SQLite gives the number of the newest removed item to the next one, which the queue had passed already."""
    store.add([listed(1, source="sample"), listed(2, source="sample")])
    queue = Queue(store, Annotate(), seed=1)
    assert queue.fill() == 2
    remove(store, ["sample2"])
    store.add([listed(3, source="sample")])
    assert queue.fill() == 1 and number(store, tasks) == 2
