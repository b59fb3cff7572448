"""What people are asked can be changed while they work: in every process, for what is still to do, with a trace."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from prefloop.config import Annotate
from prefloop.errors import AnswerError, DataError, ForbiddenError
from prefloop.labels.answer import Answer
from prefloop.store import People, Queue, Store
from prefloop.types import Completion, Item, Prompt

PLAIN = Annotate(overlap_share=0.0, gold_share=0.0)
FIRST = Answer(((0,), (1,), (2,)))


def item(name: str) -> Item:
    answers = tuple(Completion(f"{name}:c{j}", f"answer {j} of {name}") for j in range(3))
    return Item(name, Prompt(f"question {name}"), answers)


@pytest.fixture
def people(store: Store) -> People:
    return People(store)


@pytest.fixture
def owner(people: People) -> str:
    return people.accept(people.owner_link() or "", "Olga", "hash").id


@pytest.fixture
def ann(people: People) -> str:
    return people.accept(people.invite(None, "annotator"), "Ann", "hash").id


@pytest.fixture
def queue(store: Store) -> Queue:
    store.add([item(f"i{n}") for n in range(10)])
    made = Queue(store, PLAIN)
    made.fill()
    return made


def test_a_change_counts_in_every_process_and_leaves_a_line_with_before_and_after(
    opener: Callable[[], Store], queue: Queue, owner: str, people: People
) -> None:
    other = Queue(opener(), PLAIN)
    assert other.rules.current().limit is None
    assert queue.rules.change(owner, {"limit": 7, "partial": False, "attributes": ["clear"]}) == ("limit", "attributes")
    assert queue.rules.current().limit == 7
    now = other.rules.current(look=True)
    assert (now.limit, now.attributes, now.overlap) == (7, ("clear",), 1)
    lines = [(row.who, row.object) for row in people.audit(100) if row.what == "setting"]
    assert lines == [(owner, "limit: none → 7"), (owner, 'attributes: [] → ["clear"]')]
    change = queue.rules.changes()["limit"]
    assert (change.who, change.value, change.base, change.counts) == (owner, 7, None, True)


def test_only_owners_change_settings_and_only_to_what_they_can_be(queue: Queue, owner: str, ann: str) -> None:
    with pytest.raises(ForbiddenError):
        queue.rules.change(ann, {"limit": 7})
    bad = [{"overlap": 0}, {"random_share": 0.1}, {"attributes": ["a", "a"]}, {"attributes": [" "]}, {"limit": "x"}]
    for values in (*bad, {"attributes": ["a", "b", "c"]}, {"criterion": "other"}, {"webhooks": ["http://x"]}):
        with pytest.raises(DataError):
            queue.rules.change(owner, {"partial": True, **values})
    assert queue.rules.current(look=True) == PLAIN, "the good value beside a bad one is not kept either"


def test_whoever_changes_the_file_later_has_the_last_word(store: Store, queue: Queue, owner: str) -> None:
    queue.rules.change(owner, {"limit": 7, "overlap": 2})
    again = Queue(store, PLAIN)
    assert (again.rules.current().limit, again.rules.current().overlap) == (7, 2), "a start changes nothing"
    edited = Queue(store, PLAIN.model_copy(update={"limit": 9}))
    assert (edited.rules.current().limit, edited.rules.current().overlap) == (9, 2)
    assert not edited.rules.changes()["limit"].counts
    edited.rules.change(owner, {"limit": None})
    assert edited.rules.current().limit is None, "no limit is a value too"
    edited.rules.change(owner, {"limit": 9})
    assert edited.rules.changes()["limit"].back and edited.rules.current().limit == 9


def test_what_is_on_the_screen_is_judged_by_the_rules_it_was_asked_by(queue: Queue, owner: str, ann: str) -> None:
    queue.rules.change(owner, {"attributes": ["clear"]})
    shown = queue.next(ann)
    assert shown is not None and shown.attributes == ("clear",)
    queue.rules.change(owner, {"attributes": ["kind"], "rationale": "required"})
    rated = Answer(FIRST.tiers, ratings={0: {"clear": 4}})
    queue.submit(ann, shown.lease, "uuid-0001", rated)
    after = queue.next(ann)
    assert after is not None and after.attributes == ("kind",)
    queue.submit(ann, after.lease, "uuid-0002", Answer(FIRST.tiers, ratings={0: {"kind": 4}}, comment="because"))
    with pytest.raises(AnswerError, match="not rated here"):
        strange = queue.next(ann)
        assert strange is not None
        queue.submit(ann, strange.lease, "uuid-0003", Answer(FIRST.tiers, ratings={0: {"loud": 4}}, comment="x"))


def test_the_overlap_changes_for_items_that_are_not_ranked_yet(
    queue: Queue, owner: str, ann: str, store: Store
) -> None:
    done = queue.next(ann)
    assert done is not None
    queue.submit(ann, done.lease, "uuid-0001", FIRST)
    held = queue.next(ann)
    assert held is not None
    queue.rules.change(owner, {"overlap": 3})
    queue.fill()
    assert sorted(row.wanted for row in queue.browse()) == [1] + [3] * 9, "also for the one on the screen"
    queue.rules.change(owner, {"overlap": 1, "overlap_many": 4, "overlap_share": 0.4})
    queue.fill()
    wanted = [row.wanted for row in queue.browse()]
    assert (wanted.count(1), wanted.count(4)) in {(7, 3), (6, 4)}, "about 0.4 of the nine that are open"
    Queue(store, PLAIN).fill()
    assert [row.wanted for row in queue.browse()] == wanted, "once a change, however often it is looked at"


def test_guidelines_are_versions_that_people_have_read_or_not(
    queue: Queue, owner: str, ann: str, people: People
) -> None:
    rules, file = queue.rules, "# Be fair\n"
    first = rules.guidelines(file)
    assert (first.text, first.change) == (file, None)
    rules.read(ann, first)
    assert people.person(ann).guidelines == first.hash
    assert rules.write_guidelines(owner, "# Be kind\r\n", file, first.hash)
    second = rules.guidelines(file)
    assert second.text == "# Be kind\n" and second.change is not None and second.change.who == owner
    assert people.person(ann).guidelines != second.hash and rules.text_of(first.hash) == file
    with pytest.raises(DataError, match="somebody has changed"):
        rules.write_guidelines(owner, "mine", file, first.hash)
    with pytest.raises(ForbiddenError):
        rules.write_guidelines(ann, "mine", file, second.hash)
    assert rules.guidelines("# The file, edited later\n").text == "# The file, edited later\n"
    assert not rules.write_guidelines(owner, "# Be kind\n", file, second.hash), "the same text is no change"
    assert rules.write_guidelines(owner, file, file, second.hash)
    assert rules.guidelines(file).change is None, "back to the file"
    assert [row.object for row in people.audit(100) if row.what == "guidelines"] == ["change 1", "change 2"]
