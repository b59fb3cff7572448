"""The queue keeps its rules one by one, on every database: who gets what, and what becomes of what they say."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

from prefloop.config import Annotate
from prefloop.errors import AnswerError, ConflictError, DataError, ForbiddenError, LeaseError
from prefloop.labels.answer import Answer
from prefloop.store import People, Presentation, Queue, Store
from prefloop.types import Completion, Item, Message, Prompt, Ranking

Opener = Callable[[], Store]
FIRST = Answer(((0,), (1,), (2,)), duration_s=30.0)
LAST = Answer(((2,), (1,), (0,)), duration_s=30.0)
START = 1_800_000_000.0


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now

    def minutes(self, number: float) -> None:
        self.now += 60 * number


def item(name: str, k: int = 3, **metadata: object) -> Item:
    answers = tuple(Completion(f"{name}:c{j}", f"answer {j} of {name}", model=f"model-{j}") for j in range(k))
    return Item(name, Prompt(f"question {name}", metadata={"secret": "origin"}), answers, metadata=metadata)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def people(store: Store, clock: Clock) -> People:
    return People(store, clock)


@pytest.fixture
def owner(people: People) -> str:
    return people.accept(people.owner_link() or "", "Olga", "hash").id


@pytest.fixture
def hire(people: People, owner: str) -> Callable[..., str]:
    def one(name: str, *groups: str) -> str:
        return people.accept(people.invite(owner, "annotator", groups), name, "hash").id

    return one


@pytest.fixture
def queue_of(store: Store, clock: Clock) -> Callable[..., Queue]:
    def make(items: int | list[Item] = 6, **rules: object) -> Queue:
        made = [item(f"i{n}") for n in range(items)] if isinstance(items, int) else items
        store.add(made)
        plain = {"overlap_share": 0.0, "gold_share": 0.0}
        queue = Queue(store, Annotate(**{**plain, **rules}), clock, seed=3)  # type: ignore[arg-type]
        queue.fill()
        return queue

    return make


def take(queue: Queue, person: str, after: str | None = None) -> Presentation:
    shown = queue.next(person, after)
    assert shown is not None
    return shown


def named(shown: Presentation) -> str:
    """Return the item of a presentation, which only its texts give away here."""
    return shown.texts[0].rsplit(" ", 1)[1]


def rank_all(queue: Queue, person: str, answer: Answer = FIRST) -> list[str]:
    done = []
    while (shown := queue.next(person)) is not None:
        queue.submit(person, shown.lease, f"{person}-{len(done):05}", answer)
        done.append(named(shown))
    return done


# -- filling


def test_the_queue_takes_new_items_once_and_only_those_that_can_be_shown(store: Store, queue_of, clock: Clock) -> None:
    queue = queue_of([item("i1"), item("one", k=1), item("ten", k=10), item("nine", k=9)])
    assert (queue.quota().tasks, queue.quota().unfit, queue.fill()) == (2, 2, 0)
    store.add([item("i2")])
    assert (queue.fill(), queue.fill(), queue.quota().tasks) == (1, 0, 3)
    other = Queue(store, Annotate(criterion="harmless"), clock)
    assert (other.fill(), queue.quota().tasks) == (3, 3)


def test_what_people_ranked_already_is_not_asked_again_but_a_simulated_crowd_does_not_count(
    store: Store, queue_of
) -> None:
    tiers = (("i1:c0",), ("i1:c1",))
    by_person, simulated = item("i1"), item("i2")
    store.add([by_person, simulated])
    store.add_rankings([Ranking("i1", "someone", "quality", tiers)])
    other = (("i2:c0",), ("i2:c1",))
    store.add_rankings([Ranking("i2", "robot", "quality", other, simulated=True)])
    queue = queue_of([])
    assert [row.item for row in queue.browse()] == ["i2"]


def test_thirty_percent_by_exactly_three_the_rest_by_one(queue_of, hire) -> None:
    queue = queue_of(40, overlap_share=0.3, overlap_many=3)
    for name in "abcd":
        rank_all(queue, hire(name))
    done = Counter(row.done for row in queue.browse(limit=100))
    assert done == {1: 28, 3: 12}
    assert queue.quota().met and queue.quota().open == 0


# -- what a person sees


def test_a_presentation_tells_nothing_but_the_texts(queue_of, hire, people: People) -> None:
    queue = queue_of(3)
    queue.set_gold(None, "i1", [["i1:c0"], ["i1:c1"]])
    ann = hire("Ann")
    shown = take(queue, ann)
    # fmt: skip
    assert {f.name for f in fields(shown)} == {
        "lease",
        "expires_at",
        "prompt",
        "texts",
        "turns",
        "criterion",
        "attributes",
        "draft",
        "answer",
        "position",
        "returned",
    }
    said = json.dumps(shown, default=vars)
    for word in ("model-", "secret", "origin", ":c0", "gold", "priority", "random", '"i0"', '"i1"', '"i2"'):
        assert word not in said
    queue.submit(ann, shown.lease, "uuid-0001", FIRST)
    history = json.dumps(queue.history(ann), default=vars)
    for word in ("model-", "secret", ":c0", "gold", "arm"):
        assert word not in history


def test_orders_shown_differ_between_items_and_people_and_stay_for_one(queue_of, hire) -> None:
    queue = queue_of(30, overlap=2)
    orders = Counter()
    for name in ("Ann", "Bea"):
        person = hire(name)
        while (shown := queue.next(person)) is not None:
            assert take(queue, person).texts == shown.texts
            orders[tuple(text[7] for text in shown.texts)] += 1
            queue.submit(person, shown.lease, f"{name}-{shown.lease[:20]}".replace("_", "-"), FIRST)
    assert len(orders) == 6 and max(orders.values()) < 25


def test_the_ranking_names_completions_by_what_was_shown_in_which_order(queue_of, hire, store: Store) -> None:
    queue = queue_of(1, attributes=("helpful",))
    ann = hire("Ann")
    shown = take(queue, ann)
    # fmt: skip
    answer = Answer(
        ((2,), (0, 1)),
        unacceptable=(1,),
        ratings={0: {"helpful": 4}},
        flags={1: ("unsafe",)},
        comment="so",
        duration_s=12.5,
        dwell_s=(1.0, 2.0, 3.0),
    )
    queue.submit(ann, shown.lease, "uuid-0001", answer)
    ids = [f"i0:c{text[7]}" for text in shown.texts]
    (ranking,) = store.item("i0").rankings
    assert ranking.annotator == ann and ranking.shown == tuple(ids) and ranking.comment == "so"
    assert ranking.tiers == ((ids[2],), (ids[0], ids[1])) and ranking.unacceptable == (ids[1],)
    assert ranking.ratings == {ids[0]: {"helpful": 4.0}} and ranking.flags == ("unsafe",)
    assert ranking.metadata["flags"] == {ids[1]: ["unsafe"]} and ranking.metadata["dwell_s"] == [1.0, 2.0, 3.0]
    assert queue.history(ann)[0].answer == answer


# -- whose turn is what


def test_the_own_live_lease_comes_first_and_one_more_may_be_fetched_ahead(queue_of, hire) -> None:
    queue = queue_of(3)
    ann = hire("Ann")
    first = take(queue, ann)
    assert take(queue, ann).lease == first.lease
    second = take(queue, ann, after=first.lease)
    assert second.lease != first.lease
    assert take(queue, ann, after=first.lease).lease == second.lease
    assert queue.quota().live == 2
    queue.submit(ann, first.lease, "uuid-0001", FIRST)
    assert take(queue, ann, after=first.lease).lease == second.lease


def test_the_oldest_half_done_item_goes_before_a_fresh_one(queue_of, hire, clock: Clock) -> None:
    queue = queue_of(9, overlap=2)
    ann, bea = hire("Ann"), hire("Bea")
    order = []
    for n in range(3):
        shown = take(queue, ann)
        queue.submit(ann, shown.lease, f"uuid-{n:04}", FIRST)
        order.append(named(shown))
        clock.minutes(1)
    assert [named(take(queue, bea))] == order[:1]
    assert len(rank_all(queue, bea)) == 9 and len(rank_all(queue, ann)) == 6


def test_the_most_informative_goes_first_but_a_fifth_is_random(queue_of, hire, store: Store) -> None:
    queue = queue_of(400)
    assert queue.set_priorities({f"i{n}": float(n) for n in range(400)}) == 400
    ann = hire("Ann")
    for n in range(200):
        queue.submit(ann, take(queue, ann).lease, f"uuid-{n:04}", FIRST)
    by_arm: dict[str, list[int]] = {"random": [], "priority": []}
    for ranked in store.items(ranked=True):
        by_arm[ranked.rankings[0].metadata["arm"]].append(int(ranked.id[1:]))
    # Keyed by her id, drawn anew each run: five standard deviations, so that one run in a million fails.
    assert 12 <= len(by_arm["random"]) <= 68  # It is 40 +- 5.7.
    assert min(by_arm["priority"]) >= 400 - 200
    assert 70 < sum(by_arm["random"]) / len(by_arm["random"]) < 250  # It is 160 +- 18: the upper ones are soon taken.
    with pytest.raises(DataError, match="nan"):
        queue.set_priorities({"i1": float("nan")})


def test_gold_comes_once_to_everybody_in_its_share_at_places_that_differ(queue_of, hire) -> None:
    queue = queue_of(40, overlap=3, gold_share=0.2)
    gold = [f"i{n}" for n in range(10)]
    for name in gold:
        queue.set_gold(None, name, [[f"{name}:c0"], [f"{name}:c1", f"{name}:c2"]])
    places = []
    for name in ("Ann", "Bea", "Cyd"):
        done = rank_all(queue, hire(name))
        assert len(done) == len(set(done))
        places.append([n for n, known in enumerate(done[:25]) if known in gold])
        assert 4 <= len(places[-1]) <= 6
    assert any(one != places[0] for one in places)  # Three people are alike by chance once in ten million.
    assert [name for name, _ in queue.golds()] == gold
    assert queue.quota().gold == 10 and queue.quota().wanted == 90
    with pytest.raises(DataError, match="not one of its completions"):
        queue.set_gold(None, "i1", [["i2:c0"], ["i1:c1"]])


def test_tagged_items_go_to_their_group_only(queue_of, hire, people: People) -> None:
    queue = queue_of([item("law1", tag="law"), item("law2", tag="law"), item("any"), item("art")])
    assert queue.set_tag(["art"], "art") == 1
    ann, lea = hire("Ann"), hire("Lea", "law")
    assert rank_all(queue, ann) == ["any"]
    assert sorted(rank_all(queue, lea)) == ["law1", "law2"]
    people.set_groups(None, ann, ["art"])
    assert [named(take(queue, ann))] == ["art"]


def test_limits_hold_for_everybody_and_for_one(queue_of, hire, people: People) -> None:
    queue = queue_of(9, limit=3)
    ann, bea = hire("Ann"), hire("Bea")
    people.set_limit(None, bea, 1)
    assert (len(rank_all(queue, ann)), len(rank_all(queue, bea))) == (3, 1)
    assert (queue.progress(ann).stopped, queue.progress(bea).limit) == ("limit", 1)
    people.set_limit(None, bea, 2)
    first = take(queue, bea)
    assert queue.next(bea, after=first.lease) is None  # The one on the desk counts.


# -- time


def test_a_lease_that_runs_out_frees_its_place_and_the_late_answer_is_kept(queue_of, hire, store, clock: Clock) -> None:
    queue = queue_of(1)
    ann, bea = hire("Ann"), hire("Bea")
    late = take(queue, ann)
    assert queue.next(bea) is None
    clock.minutes(15)
    other = take(queue, bea)
    assert queue.submit(ann, late.lease, "uuid-late", FIRST).kind == "surplus"
    assert queue.submit(bea, other.lease, "uuid-0001", LAST).kind == "ranked"
    marks = {ranking.annotator: ranking.metadata.get("surplus") for ranking in store.item("i0").rankings}
    assert marks == {ann: True, bea: None}
    assert (queue.quota().done, queue.progress(ann).done) == (1, 1)


def test_a_late_answer_counts_where_the_place_is_still_free(queue_of, hire, clock: Clock) -> None:
    queue = queue_of(2)
    ann, bea = hire("Ann"), hire("Bea")
    late = take(queue, ann)
    clock.minutes(20)
    assert named(take(queue, bea)) == named(late)
    clock.minutes(20)
    assert queue.next(bea) is not None  # Bea has taken it up again.
    clock.minutes(20)
    assert queue.submit(ann, late.lease, "uuid-late", FIRST).kind == "surplus"
    alone = take(queue, ann)
    clock.minutes(200)
    assert queue.submit(ann, alone.lease, "uuid-0002", FIRST).kind == "ranked"


@pytest.mark.parametrize("hours", [-24 * 365, -1, 1, 24 * 365])
def test_a_clock_that_jumps_loses_no_answer_and_asks_nobody_beyond_the_quota(
    queue_of, hire, store: Store, clock: Clock, hours: int
) -> None:
    """Two people are at work when the clock jumps; one submits, the other went home; a third looks for work."""
    queue = queue_of(2, overlap=1)
    ana, bob, cleo = hire("Ana"), hire("Bob"), hire("Cleo")
    of_ana, of_bob = take(queue, ana), take(queue, bob)
    clock.minutes(5)
    clock.minutes(60 * hours)
    if hours < 0:  # Nothing ran out, so nothing is free.
        assert queue.next(cleo) is None
    assert queue.submit(ana, of_ana.lease, "ana-00001", FIRST).kind == "ranked"
    clock.minutes(16)  # A lease lasts for 15 minutes, whatever the clock did before.
    again = take(queue, cleo)
    assert named(again) == named(of_bob)
    assert queue.submit(cleo, again.lease, "cleo-0001", LAST).kind == "ranked"
    assert queue.submit(bob, of_bob.lease, "bob-00001", FIRST).kind == "surplus"
    assert queue.next(cleo) is None and queue.quota().done == 2
    assert len([r for i in store.items() for r in i.rankings]) == 3
    assert store.check() == []


def test_a_clock_put_back_leaves_people_at_work_their_items(queue_of, hire, clock: Clock) -> None:
    queue = queue_of(1, overlap=1)
    ana, bob = hire("Ana"), hire("Bob")
    held = take(queue, ana)
    clock.minutes(-120)
    assert queue.next(bob) is None, "it is not taken from her"
    assert queue.heartbeat(ana, held.lease) == pytest.approx(clock.now + 15 * 60)
    clock.minutes(14)
    assert queue.next(bob) is None
    assert queue.submit(ana, held.lease, "ana-00001", FIRST).kind == "ranked"


def test_heartbeats_keep_a_lease_up_to_the_cap(queue_of, hire, clock: Clock) -> None:
    queue = queue_of(1, lease_hours=1)
    ann, bea = hire("Ann"), hire("Bea")
    shown = take(queue, ann)
    for _ in range(5):
        clock.minutes(10)
        assert queue.heartbeat(ann, shown.lease) == min(clock.now + 900, START + 3600)
        assert queue.next(bea) is None
    clock.minutes(10)
    with pytest.raises(LeaseError, match="1 h"):
        queue.heartbeat(ann, shown.lease)
    assert queue.next(bea) is not None
    with pytest.raises(LeaseError):
        queue.heartbeat(bea, shown.lease)


def test_what_ran_out_comes_back_with_its_draft_while_nobody_else_has_it(queue_of, hire, clock: Clock) -> None:
    queue = queue_of(3)
    ann = hire("Ann")
    shown = take(queue, ann)
    queue.draft(ann, shown.lease, {"tiers": [[1]]})
    queue.draft(ann, shown.lease, {"tiers": [[1], [2]]})
    clock.minutes(60)
    again = take(queue, ann)
    assert (again.lease, again.draft, again.texts) == (shown.lease, {"tiers": [[1], [2]]}, shown.texts)
    queue.submit(ann, again.lease, "uuid-0001", FIRST)
    with pytest.raises(LeaseError):
        queue.draft(ann, again.lease, {})
    assert queue.reopen(ann, again.lease).draft is None
    with pytest.raises(AnswerError, match="characters"):
        queue.draft(ann, again.lease, {"text": "x" * 200_000})


# -- submits again


def test_the_same_uuid_and_answer_gets_the_same_receipt_and_another_answer_is_a_conflict(queue_of, hire, store) -> None:
    queue = queue_of(2)
    ann = hire("Ann")
    shown = take(queue, ann)
    receipt = queue.submit(ann, shown.lease, "uuid-0001", FIRST)
    retried = Answer(FIRST.tiers, duration_s=31.0)  # The time was measured again, and the words are the same.
    assert queue.submit(ann, shown.lease, "uuid-0001", retried) == receipt
    with pytest.raises(ConflictError, match="first one is kept"):
        queue.submit(ann, shown.lease, "uuid-0001", LAST)
    with pytest.raises(ConflictError):
        queue.submit(ann, take(queue, ann).lease, "uuid-0001", FIRST)
    assert store.counts()["rankings"] == 1
    with pytest.raises(AnswerError, match="uuid"):
        queue.submit(ann, shown.lease, "x", FIRST)


def test_a_second_tab_that_says_the_same_is_fine_and_one_that_differs_is_a_conflict(queue_of, hire, store) -> None:
    queue = queue_of(1)
    ann = hire("Ann")
    shown = take(queue, ann)
    first = queue.submit(ann, shown.lease, "uuid-0001", FIRST)
    assert queue.submit(ann, shown.lease, "uuid-0002", FIRST).ranking == first.ranking
    with pytest.raises(ConflictError, match="another tab"):
        queue.submit(ann, shown.lease, "uuid-0003", LAST)
    with pytest.raises(ConflictError):
        queue.skip(ann, shown.lease, "uuid-0004", "unclear")
    assert store.counts()["rankings"] == 1


def test_an_answer_that_does_not_fit_writes_nothing(queue_of, hire, store) -> None:
    queue = queue_of(1)
    ann = hire("Ann")
    shown = take(queue, ann)
    with pytest.raises(AnswerError, match="C has no rank"):
        queue.submit(ann, shown.lease, "uuid-0001", Answer(((0,), (1,))))
    assert store.counts()["rankings"] == 0
    assert queue.submit(ann, shown.lease, "uuid-0001", FIRST).kind == "ranked"


def test_undo_gives_the_answer_back_and_the_next_submit_supersedes_it(queue_of, hire, store, clock: Clock) -> None:
    queue = queue_of(1)
    ann = hire("Ann")
    shown = take(queue, ann)
    queue.submit(ann, shown.lease, "uuid-0001", FIRST)
    for uuid, answer, before in (("uuid-0002", LAST, FIRST), ("uuid-0003", FIRST, LAST)):
        again = queue.reopen(ann, shown.lease)
        assert (again.answer, again.texts) == (before, shown.texts)
        assert queue.submit(ann, shown.lease, uuid, answer).kind == "revised"
    assert len(store.item("i0").rankings) == 1 and store.counts()["rankings"] == 3
    assert (queue.quota().done, queue.progress(ann).done) == (1, 1)


def test_only_the_last_ten_answers_can_be_changed(queue_of, hire, clock: Clock) -> None:
    queue = queue_of(12)
    ann = hire("Ann")
    given = []
    for n in range(11):
        given.append(take(queue, ann).lease)
        queue.submit(ann, given[-1], f"uuid-{n:04}", FIRST)
        clock.minutes(1)
    assert [line.editable for line in queue.history(ann, limit=20)] == [True] * 10 + [False]
    with pytest.raises(LeaseError, match="last 10"):
        queue.reopen(ann, given[0])
    assert queue.reopen(ann, given[1]).answer == FIRST


def test_a_skipped_item_goes_to_somebody_else_and_never_comes_back(queue_of, hire) -> None:
    queue = queue_of(2)
    ann, bea = hire("Ann"), hire("Bea")
    shown = take(queue, ann)
    receipt = queue.skip(ann, shown.lease, "uuid-0001", "unclear")
    assert queue.skip(ann, shown.lease, "uuid-0001", "unclear") == receipt
    assert named(take(queue, bea)) == named(shown)
    assert named(shown) not in rank_all(queue, ann)
    assert (queue.progress(ann).skipped, queue.history(ann)[-1].skipped) == (1, "unclear")
    with pytest.raises(AnswerError, match="no reason to skip"):
        queue.skip(ann, shown.lease, "uuid-0002", "bored")
    assert [row.item for row in queue.browse("skipped")] == [named(shown)]


def test_what_was_flagged_before_a_skip_is_kept_for_reviewers(queue_of, hire) -> None:
    queue = queue_of(2)
    ann, bea = hire("Ann"), hire("Bea")
    shown = take(queue, ann)
    said = Answer(((0,),), flags={1: ("unsafe", "wrong"), 2: ("unsafe",)}, comment=" insults people ")
    receipt = queue.skip(ann, shown.lease, "uuid-0001", "distressing", said)
    assert queue.skip(ann, shown.lease, "uuid-0001", "distressing", said) == receipt
    with pytest.raises(ConflictError):
        queue.skip(ann, shown.lease, "uuid-0001", "distressing", Answer(()))
    item = named(shown)
    (passed,) = queue.view(item).passed
    assert sorted(passed.flags.values()) == [("unsafe",), ("unsafe", "wrong")]
    assert set(passed.flags) <= {completion.id for completion in queue.view(item).item.completions}
    assert (passed.state, passed.comment) == ("skipped", "insults people")
    assert queue.skip_flags() == {item: passed.flags[next(iter(passed.flags))] + tuple(list(passed.flags.values())[1])}
    assert [row.flags for row in queue.browse("given")] == [("unsafe", "wrong", "unsafe")]
    assert queue.view(item).said == (), "no ranking comes of it"
    other = take(queue, bea)
    for number, wrong in enumerate((Answer((), flags={9: ("unsafe",)}), Answer((), flags={0: ("dull",)}))):
        with pytest.raises(AnswerError):
            queue.skip(bea, other.lease, f"uuid-001{number}", "unclear", wrong)
    queue.reopen(ann, shown.lease)
    assert queue.skip_flags() == {}, "undone"


def test_a_skip_that_is_undone_gives_the_draft_back(queue_of, hire) -> None:
    queue = queue_of(1)
    ann = hire("Ann")
    shown = take(queue, ann)
    queue.draft(ann, shown.lease, {"half": "done"})
    queue.skip(ann, shown.lease, "uuid-0001", "unclear")
    assert queue.reopen(ann, shown.lease).draft == {"half": "done"}


def test_a_skip_can_be_undone(queue_of, hire) -> None:
    queue = queue_of(1)
    ann = hire("Ann")
    shown = take(queue, ann)
    queue.skip(ann, shown.lease, "uuid-0001", "unclear")
    assert queue.next(ann) is None
    assert queue.reopen(ann, shown.lease).answer is None
    assert take(queue, ann).lease == shown.lease
    assert queue.submit(ann, shown.lease, "uuid-0002", FIRST).kind == "ranked"
    assert (queue.progress(ann).skipped, queue.browse()[0].skips) == (0, 0)


# -- strangers


def test_nobody_touches_anothers_lease_and_a_disabled_person_nothing(queue_of, hire, people: People) -> None:
    queue = queue_of(2)
    ann, eve = hire("Ann"), hire("Eve")
    lease = take(queue, ann).lease
    for attempt in (
        lambda: queue.submit(eve, lease, "uuid-0001", FIRST),
        lambda: queue.skip(eve, lease, "uuid-0001", "unclear"),
        lambda: queue.heartbeat(eve, lease),
        lambda: queue.draft(eve, lease, {}),
        lambda: queue.reopen(eve, lease),
    ):
        with pytest.raises(LeaseError, match="no such item on your desk"):
            attempt()
    people.disable(None, ann)
    for refused in (
        lambda: queue.next(ann),
        lambda: queue.submit(ann, lease, "uuid-0001", FIRST),
        lambda: queue.history(ann),
        lambda: queue.heartbeat(ann, lease),
        lambda: queue.next("p-nobody"),
    ):
        with pytest.raises(ForbiddenError):
            refused()
    for reviewing in (
        lambda: queue.discard(eve, "i0", "no"),
        lambda: queue.give_back(eve, "i0", ann),
        lambda: queue.adjudicate(eve, "i0", "uuid-0009", FIRST),
        lambda: queue.set_gold(eve, "i0", None),
    ):
        with pytest.raises(ForbiddenError, match="reviewers"):
            reviewing()


# -- reviewers


def test_reviewers_see_everybody_side_by_side_and_their_word_is_marked(queue_of, hire, owner, store) -> None:
    queue = queue_of(1, overlap=2)
    ann, bea = hire("Ann"), hire("Bea")
    queue.submit(ann, take(queue, ann).lease, "uuid-0001", FIRST)
    take(queue, bea)
    view = queue.view("i0")
    assert [(said.name, said.surplus) for said in view.said] == [("Ann", False)]
    assert [(held.name, held.state) for held in view.passed] == [("Bea", "live")]
    receipt = queue.adjudicate(owner, "i0", "uuid-0002", LAST)
    assert queue.adjudicate(owner, "i0", "uuid-0002", LAST) == receipt
    changed = queue.adjudicate(owner, "i0", "uuid-0003", FIRST)
    said = {word.ranking.id: word for word in queue.view("i0").said}
    assert receipt.ranking not in said and changed.ranking is not None
    assert said[changed.ranking].adjudication and said[changed.ranking].ranking.tiers[0] == ("i0:c0",)
    assert (queue.quota().done, len(store.item("i0").rankings)) == (1, 2)


def test_what_is_given_back_comes_first_with_note_and_answer(queue_of, hire, owner) -> None:
    queue = queue_of(4)
    ann = hire("Ann")
    shown = take(queue, ann)
    queue.submit(ann, shown.lease, "uuid-0001", FIRST)
    queue.give_back(owner, named(shown), ann, "B is longer, not better")
    again = take(queue, ann)
    assert (again.lease, again.answer, again.returned) == (shown.lease, FIRST, "B is longer, not better")
    assert queue.progress(ann).returned == 1
    assert queue.submit(ann, again.lease, "uuid-0002", LAST).kind == "revised"
    assert (take(queue, ann).lease != shown.lease, queue.progress(ann).returned) == (True, 0)
    with pytest.raises(DataError, match="nothing to give back"):
        queue.give_back(owner, named(take(queue, ann)), ann)


def test_states_follow_from_the_counts_beside_them(queue_of, hire, owner, clock: Clock) -> None:
    queue = queue_of(1, overlap=2)
    ann, ben = hire("Ann"), hire("Ben")

    def line() -> tuple[str, int, int, int]:
        (row,) = queue.browse()
        return row.state, row.done, row.held, queue.quota().live

    assert line() == ("open", 0, 0, 0)
    shown = take(queue, ann)
    assert line() == ("being ranked", 0, 1, 1)
    clock.minutes(16)
    assert line() == ("open", 0, 0, 0), (
        "whoever ran out of time holds nothing, although nobody has asked for work since"
    )
    queue.submit(ann, shown.lease, "uuid-ann-1", FIRST)
    assert line() == ("partly ranked", 1, 0, 0)
    other = take(queue, ben)
    assert line() == ("being ranked", 1, 1, 1)
    queue.submit(ben, other.lease, "uuid-ben-1", LAST)
    assert line() == ("ranked", 2, 0, 0)
    ranked = {"all": 1, "answered": 1, "given": 1, "several": 1, "skipped": 0, "gold": 0, "discarded": 0}
    assert queue.tallies() == ranked
    queue.discard(owner, "i0", "broken")
    assert line()[0] == "discarded"
    assert queue.tallies() == dict.fromkeys(ranked, 0) | {"all": 1, "discarded": 1}
    for kind, number in queue.tallies().items():
        assert len(queue.browse(kind)) == number, kind


def test_open_is_what_this_person_can_still_get(queue_of, hire, people: People, clock: Clock) -> None:
    """It goes down with each answer, and reaches 0 exactly when `next` gives nothing."""
    queue = queue_of([item("law", tag="law"), *(item(f"i{n}") for n in range(4))], overlap=2)
    ann, lea = hire("Ann"), hire("Lea", "law")
    people.set_limit(None, lea, 4)
    assert (queue.progress(ann).open, queue.progress(lea).open) == (4, 4), "ann: no law; lea: 5, of which 4 are allowed"
    for left in (4, 3, 2, 1):
        shown = take(queue, ann)
        assert queue.progress(ann).open == left, "the one on the screen is still to do"
        queue.submit(ann, shown.lease, f"uuid-{left:04}", FIRST)
    assert queue.progress(ann).open == 0 and queue.next(ann) is None
    assert not queue.held_elsewhere(ann)
    ben, cleo = hire("Ben"), hire("Cleo")
    rank_all(queue, ben)
    assert queue.progress(cleo).open == 0 and queue.next(cleo) is None, "ann and ben took both places of each"
    clock.minutes(1)
    assert queue.progress(lea).open == 1 and named(take(queue, lea)) == "law"


def test_open_waits_for_what_others_hold_and_counts_what_comes_back(queue_of, hire, owner, clock: Clock) -> None:
    queue = queue_of(1)
    ann, ben = hire("Ann"), hire("Ben")
    shown = take(queue, ann)
    assert (queue.progress(ben).open, queue.held_elsewhere(ben), queue.held_elsewhere(ann)) == (0, True, False)
    queue.submit(ann, shown.lease, "uuid-ann-1", FIRST)
    queue.give_back(owner, "i0", ann, "look again")
    clock.minutes(1)
    assert (queue.progress(ann).open, queue.held_elsewhere(ben)) == (1, False)


def test_items_are_known_by_the_start_of_their_prompt(queue_of, store: Store) -> None:
    chat = (Message("user", "Hello"), Message("assistant", "Yes?"), Message("user", "And\n\nnow  " + "x" * 200))
    answers = tuple(Completion(f"chat:c{j}", f"answer {j}") for j in range(2))
    queue = queue_of([item("i0"), Item("chat", Prompt(chat), answers)])
    found = queue.starts(["i0", "chat", "nothing"])
    assert found == {"i0": "question i0", "chat": "And now " + "x" * 151 + "…"}
    assert {row.item: row.excerpt for row in queue.browse()} == found


def test_a_discarded_item_leaves_every_queue_and_training(queue_of, hire, owner, store) -> None:
    queue = queue_of(2, overlap=2)
    ann, bea = hire("Ann"), hire("Bea")
    first = take(queue, ann)
    queue.submit(ann, first.lease, "uuid-0001", FIRST)
    on_desk = take(queue, bea)
    assert named(on_desk) == named(first)
    queue.discard(owner, named(first), "private data")
    assert named(take(queue, bea)) != named(first)
    assert queue.submit(bea, on_desk.lease, "uuid-0002", FIRST).kind == "surplus"
    assert not queue.history(ann)[0].editable
    assert list(store.items(ranked=True)) == []
    assert [len(found.rankings) for found in store.items(ranked=True, excluded=True)] == [2]
    assert (queue.quota().discarded, queue.quota().tasks) == (1, 1)
    queue.restore(owner, named(first))
    assert len(list(store.items(ranked=True))) == 1
    cyd = hire("Cyd")
    assert sorted(rank_all(queue, cyd)) == ["i0", "i1"]


def test_excluded_people_get_no_work_and_their_rankings_are_not_trained_on(queue_of, hire, people, store) -> None:
    queue = queue_of(2, overlap=2)
    ann, bea = hire("Ann"), hire("Bea")
    rank_all(queue, ann)
    rank_all(queue, bea, LAST)
    people.exclude(None, bea, "same order always")
    store.add([item("new")])
    assert queue.fill() == 1
    left = {ranking.annotator for found in store.items(ranked=True) for ranking in found.rankings}
    assert left == {ann}
    kept = {ranking.annotator for found in store.items(excluded=True) for ranking in found.rankings}
    assert kept == {ann, bea}
    assert (queue.next(bea), queue.progress(bea).stopped) == (None, "excluded")
    assert [said.excluded for said in queue.view("i0").said] == [False, True]
    cyd = hire("Cyd")
    assert sorted(rank_all(queue, cyd)) == ["i0", "i1", "new"], "others get the places of those left out"
    assert (queue.quota().done, queue.quota().open) == (5, 1)
    people.include(None, bea)
    assert named(take(queue, bea)) == "new"
    assert {ranking.annotator for found in store.items() for ranking in found.rankings} == {ann, bea, cyd}


def test_what_somebody_excluded_has_on_the_desk_is_kept_but_counts_for_nothing(queue_of, hire, people) -> None:
    queue = queue_of(1, overlap=1)
    ann, bea = hire("Ann"), hire("Bea")
    shown = take(queue, ann)
    people.exclude(None, ann, "too fast")
    assert queue.next(bea) is None
    assert queue.submit(ann, shown.lease, "uuid-0001", FIRST).kind == "surplus"
    assert named(take(queue, bea)) == "i0"


# -- many at once


def crowd(queue: Queue, people: list[str], said: list[str]) -> None:
    """Let each person rank on a thread of their own until nothing is left; acknowledged rankings go to `said`."""
    failures: list[BaseException] = []

    def one(person: str) -> None:
        try:
            n = 0
            while (shown := queue.next(person)) is not None:
                n += 1
                uuid = f"{person}-{n:05}"
                receipt = queue.submit(person, shown.lease, uuid, FIRST)
                assert queue.submit(person, shown.lease, uuid, FIRST) == receipt
                said.append(str(receipt.ranking))
        except BaseException as error:  # noqa: BLE001 - a thread's failure must reach the test
            failures.append(error)

    threads = [threading.Thread(target=one, args=(person,)) for person in people]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def assert_exact(queue: Queue, store: Store, said: list[str], expected: dict[int, int]) -> None:
    assert Counter(row.done for row in queue.browse(limit=10_000)) == expected
    there = [ranking for found in store.items() for ranking in found.rankings]
    assert sorted(ranking.id for ranking in there) == sorted(said)
    assert not any(ranking.metadata.get("surplus") for ranking in there)
    assert max(Counter((ranking.item_id, ranking.annotator) for ranking in there).values()) == 1
    assert store.check() == []


def test_twenty_people_at_once_give_exactly_the_overlap(queue_of, hire, store) -> None:
    queue = queue_of(40, overlap_share=0.3, overlap_many=4)
    said: list[str] = []
    crowd(queue, [hire(f"person {n}") for n in range(20)], said)
    assert_exact(queue, store, said, {1: 28, 4: 12})


def test_two_tabs_of_one_person_get_the_same_item(queue_of, hire) -> None:
    queue = queue_of(30)
    ann = hire("Ann")
    got: list[str] = []
    threads = [threading.Thread(target=lambda: got.append(take(queue, ann).lease)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 8 and len(set(got)) == 1


WORKER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_queue import FIRST, START, crowd
from prefloop.config import Annotate
from prefloop.store import Queue, Store
with Store.open(sys.argv[2], Path(".")) as store:
    said = []
    queue = Queue(store, Annotate(overlap_share=0.3, overlap_many=4, gold_share=0), lambda: START, seed=3)
    crowd(queue, sys.argv[3:], said)
    print(*said)
"""


def at_once(url: str, root: Path, people: list[list[str]]) -> list[str]:
    """Start one process for each list of people; return the acknowledged rankings."""
    here = str(Path(__file__).parent)
    commands = [[sys.executable, "-c", WORKER, here, url, *some] for some in people]
    working = [
        subprocess.Popen(c, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for c in commands
    ]
    ended = [process.communicate(timeout=300) for process in working]
    assert [process.returncode for process in working] == [0] * len(working), ended
    return [id for out, _ in ended for id in out.split()]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["sqlite", "postgres"])
def test_several_server_processes_give_exactly_the_overlap(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = "sqlite:///store.db" if backend == "sqlite" else request.getfixturevalue("fresh_postgres")
    with Store.open(url, tmp_path) as store:
        team = People(store, Clock())
        owner = team.accept(team.owner_link() or "", "Olga", "hash").id
        ids = [team.accept(team.invite(owner, "annotator"), f"person {n}", "hash").id for n in range(12)]
        store.add(item(f"i{n}") for n in range(100))
        queue = Queue(store, Annotate(overlap_share=0.3, overlap_many=4, gold_share=0), Clock(), seed=3)
        queue.fill()
        said = at_once(url, tmp_path, [ids[n::4] for n in range(4)])
        assert_exact(queue, store, said, {1: 70, 4: 30})
