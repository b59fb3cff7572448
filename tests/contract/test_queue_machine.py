"""Whatever people, reviewers and the clock do, in any order, overlap is exact, and nothing is lost or doubled."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import select

from prefloop.config import Annotate
from prefloop.errors import ConflictError, ForbiddenError, LeaseError
from prefloop.labels.answer import SKIP_REASONS, Answer
from prefloop.store import People, Person, Presentation, Queue, Receipt, Store
from prefloop.store.queue.rows import Phase
from prefloop.store.schema import leases, rankings, tasks
from prefloop.types import Completion, Item, Prompt

Opener = Callable[[], Store]
TABLES = (
    "removals, submissions, drafts, leases, tasks, sessions, invites, people, rankings, completions, items, prompts"
)
ANSWERS = [
    Answer(((0,), (1,), (2,))),
    Answer(((2,), (0, 1)), comment="because"),
    Answer(((1, 0, 2),), flags={1: ("wrong",)}),
    Answer((), none_acceptable=True),
]
RULES = Annotate(overlap=1, overlap_many=3, overlap_share=0.4, gold_share=0.3, lease_minutes=15, lease_hours=2)


@dataclass
class Sent:
    """Holds a submit that was acknowledged."""

    person: str
    lease: str
    uuid: str
    answer: Answer
    receipt: Receipt


@dataclass
class QueueContext:
    """Holds what one person has been shown, in order, and what they have given."""

    person: Person
    seen: list[Presentation] = field(default_factory=list)


class Crowd(RuleBasedStateMachine):
    """Drives the queue through its public interface, and judges it by what lies in the tables."""

    store: Store

    def __init__(self) -> None:
        super().__init__()
        _empty(self.store)
        self.now = 1_800_000_000.0
        self.people = People(self.store, self.clock)
        token = self.people.owner_link()
        assert token is not None
        self.owner = self.people.accept(token, "Olga", "hash")
        self.queue = Queue(self.store, RULES, self.clock, seed=7)
        self.desks: list[QueueContext] = []
        self.sent: list[Sent] = []
        self.gone: set[str] = set()  # These rankings left with their people.
        self.given_up: set[str] = set()  # Others are asked for a ranking instead of these.
        self.adjudicated: set[str] = set()
        self.gilded: set[str] = set()  # These were ever gold: they may have been given to more people than are wanted.
        self.items = self.sends = 0
        for _ in range(2):
            self.hire()
        self.more_items(4)

    def clock(self) -> float:
        return self.now

    def uuid(self) -> str:
        self.sends += 1
        return f"send-{self.sends:06}"

    # -- the team

    @precondition(lambda self: len(self.desks) < 5)
    @rule(grouped=st.booleans())
    def hire(self, grouped: bool = False) -> None:
        token = self.people.invite(self.owner.id, "annotator", ["law"] if grouped else [])
        self.desks.append(QueueContext(self.people.accept(token, f"person {self.uuid()}", "hash")))

    @precondition(lambda self: len(self.desks) > 2)
    @rule(who=st.integers(0, 99), keep=st.booleans())
    def fire(self, who: int, keep: bool) -> None:
        desk = self.desks.pop(who % len(self.desks))
        theirs = {row["id"] for row in self.rows(rankings) if row["annotator"] == desk.person.id}
        self.people.delete(self.owner.id, desk.person.id, keep_rankings=keep)
        if not keep:
            self.gone |= theirs
        self.sent = [sent for sent in self.sent if sent.person != desk.person.id or keep]
        with pytest.raises(ForbiddenError):
            self.queue.next(desk.person.id)

    @rule(who=st.integers(0, 99), out=st.booleans())
    def trust(self, who: int, out: bool) -> None:
        person = self.desks[who % len(self.desks)].person.id
        if out:
            theirs = [row for row in self.rows(leases) if row["person"] == person and row["state"] == "done"]
            self.given_up |= {row["ranking_id"] for row in theirs}
            self.people.exclude(self.owner.id, person, "too fast")
        else:
            self.people.include(self.owner.id, person)

    # -- the work

    @rule(number=st.integers(1, 4), tagged=st.booleans())
    def more_items(self, number: int, tagged: bool = False) -> None:
        made = []
        for _ in range(number):
            self.items += 1
            name = f"i{self.items}"
            answers = tuple(Completion(f"{name}:c{j}", f"answer {j}", model=f"m{j}") for j in range(3))
            made.append(Item(name, Prompt(f"q {name}"), answers, metadata={"tag": "law"} if tagged else {}))
        self.store.add(made)
        assert self.queue.fill() == number

    @rule(minutes=st.sampled_from([1, 10, 16, 130]))
    def wait(self, minutes: int) -> None:
        self.now += minutes * 60

    @rule(who=st.integers(0, 99), ahead=st.booleans())
    def next(self, who: int, ahead: bool) -> None:
        desk = self.desks[who % len(self.desks)]
        after = desk.seen[-1].lease if ahead and desk.seen else None
        shown = self.queue.next(desk.person.id, after)
        if shown is None:
            self.nothing_is_left_for(desk.person.id, after)
            return
        assert shown.lease != after
        lease = self.lease(shown.lease)
        assert lease["person"] == desk.person.id and self.task(lease["task"])["discarded"] is None
        again = lease["state"] == "done"
        assert again == (shown.returned is not None) == (shown.answer is not None)
        assert again or (lease["state"] == "live" and shown.expires_at > self.now)
        held = [row for row in self.rows(leases) if row["person"] == desk.person.id and row["state"] == "live"]
        assert len(held) <= 2
        desk.seen.append(shown)

    def nothing_is_left_for(self, person: str, after: str | None) -> None:
        who = self.people.person(person)
        if who.excluded is not None:
            return
        had = {row["task"] for row in self.rows(leases) if row["person"] == person}
        for task in self.rows(tasks):
            if task["tag"] in ("", *who.groups) and task["phase"] in (Phase.FRESH, Phase.HALF):
                assert task["seq"] in had, f"{task['item_id']} was there to be had"

    @precondition(lambda self: any(desk.seen for desk in self.desks))
    @rule(which=st.integers(0, 999), answer=st.sampled_from(ANSWERS))
    def submit(self, which: int, answer: Answer) -> None:
        """Submit any presentation of the past: the one on screen, a late one, one answered in another tab."""
        desk, shown = self.pick(which)
        before, task, uuid = self.lease(shown.lease), self.task_of(shown.lease), self.uuid()
        total = len(self.rows(rankings))
        try:
            receipt = self.queue.submit(desk.person.id, shown.lease, uuid, answer)
        except ConflictError:
            assert before["state"] == "done" and not before["reopened"] and before["body"] != answer.body
            assert len(self.rows(rankings)) == total
            return
        if before["state"] == "done" and not before["reopened"]:
            assert before["body"] == answer.body and receipt.ranking == before["ranking_id"]
            assert len(self.rows(rankings)) == total
            return
        open_place = task["gold"] is not None or task["done"] + task["live"] < task["wanted"]
        counted = before["state"] == "live" or (open_place and task["discarded"] is None)
        counted = counted and self.people.person(desk.person.id).excluded is None
        expected = "revised" if before["state"] == "done" else "ranked" if counted else "surplus"
        assert receipt.kind == expected
        assert len(self.rows(rankings)) == total + 1
        self.sent.append(Sent(desk.person.id, shown.lease, uuid, answer, receipt))

    @precondition(lambda self: any(self.able(sent.person) for sent in self.sent))
    @rule(which=st.integers(0, 999), same=st.booleans())
    def send_again(self, which: int, same: bool) -> None:
        able = [sent for sent in self.sent if self.able(sent.person)]
        sent = able[which % len(able)]
        if same:
            assert self.queue.submit(sent.person, sent.lease, sent.uuid, sent.answer) == sent.receipt
            return
        other = next(answer for answer in ANSWERS if answer != sent.answer)
        with pytest.raises(ConflictError):
            self.queue.submit(sent.person, sent.lease, sent.uuid, other)

    @precondition(lambda self: any(desk.seen for desk in self.desks))
    @rule(which=st.integers(0, 999), reason=st.sampled_from(SKIP_REASONS))
    def skip(self, which: int, reason: str) -> None:
        desk, shown = self.pick(which)
        before = self.lease(shown.lease)
        if before["state"] == "done" and not before["reopened"]:
            with pytest.raises(ConflictError):
                self.queue.skip(desk.person.id, shown.lease, self.uuid(), reason)
            return
        self.queue.skip(desk.person.id, shown.lease, self.uuid(), reason)
        assert self.lease(shown.lease)["state"] == ("done" if before["state"] == "done" else "skipped")

    @precondition(lambda self: any(desk.seen for desk in self.desks))
    @rule(which=st.integers(0, 999))
    def live_on(self, which: int) -> None:
        desk, shown = self.pick(which)
        before, task = self.lease(shown.lease), self.task_of(shown.lease)
        in_time = before["started_at"] + RULES.lease_hours * 3600 > self.now
        room = before["state"] == "live" or (
            before["state"] == "expired" and task["phase"] in (Phase.FRESH, Phase.HALF, Phase.GOLD)
        )
        if before["reopened"] or (in_time and room):
            assert self.queue.heartbeat(desk.person.id, shown.lease) > self.now
        else:
            with pytest.raises(LeaseError):
                self.queue.heartbeat(desk.person.id, shown.lease)

    @precondition(lambda self: any(desk.seen for desk in self.desks))
    @rule(which=st.integers(0, 999))
    def undo(self, which: int) -> None:
        desk, shown = self.pick(which)
        given = {line.lease: line for line in self.queue.history(desk.person.id)}
        try:
            again = self.queue.reopen(desk.person.id, shown.lease)
        except LeaseError:
            assert shown.lease not in given or not given[shown.lease].editable
            return
        assert again.texts == shown.texts, "the order shown is the same for ever"
        if self.lease(shown.lease)["state"] == "done" and shown.lease in given:
            assert again.answer == given[shown.lease].answer

    @precondition(lambda self: any(desk.seen for desk in self.desks))
    @rule(which=st.integers(0, 999))
    def keep_a_draft(self, which: int) -> None:
        desk, shown = self.pick(which)
        lease = self.lease(shown.lease)
        if lease["state"] in ("live", "expired") or lease["reopened"]:
            self.queue.draft(desk.person.id, shown.lease, {"at": self.now})
        else:
            with pytest.raises(LeaseError):
                self.queue.draft(desk.person.id, shown.lease, {"at": self.now})

    # -- reviewers

    @rule(which=st.integers(0, 999), put_back=st.booleans())
    def take_out(self, which: int, put_back: bool) -> None:
        item = f"i{which % self.items + 1}"
        if put_back:
            self.queue.restore(self.owner.id, item)
        else:
            self.queue.discard(self.owner.id, item, "broken")
        assert (self.queue.view(item).discarded is None) == put_back

    @rule(which=st.integers(0, 999))
    def return_an_answer(self, which: int) -> None:
        done = [row for row in self.rows(leases) if row["state"] == "done"]
        if done:
            lease = done[which % len(done)]
            self.queue.give_back(self.owner.id, self.task(lease["task"])["item_id"], lease["person"], "look again")

    @rule(which=st.integers(0, 999), gold=st.booleans())
    def gild(self, which: int, gold: bool) -> None:
        item = f"i{which % self.items + 1}"
        self.gilded.add(item)
        self.queue.set_gold(self.owner.id, item, [[f"{item}:c0"], [f"{item}:c1"]] if gold else None)

    @rule(which=st.integers(0, 999), answer=st.sampled_from(ANSWERS))
    def judge(self, which: int, answer: Answer) -> None:
        item, uuid = f"i{which % self.items + 1}", self.uuid()
        receipt = self.queue.adjudicate(self.owner.id, item, uuid, answer)
        assert self.queue.adjudicate(self.owner.id, item, uuid, answer) == receipt
        assert receipt.ranking is not None
        self.adjudicated.add(receipt.ranking)

    # -- what is always true

    @invariant()
    def every_acknowledged_answer_is_there_exactly_once(self) -> None:
        there = Counter(row["id"] for row in self.rows(rankings))
        assert there.total() == len(there)
        acknowledged = {sent.receipt.ranking for sent in self.sent} - self.gone
        assert set(there) == acknowledged | self.adjudicated

    @invariant()
    def overlap_is_exact_and_nobody_counts_twice(self) -> None:
        superseded = {row["supersedes"] for row in self.rows(rankings)}
        counted: Counter[str] = Counter()
        once: Counter[tuple[str, str]] = Counter()
        for row in self.rows(rankings):
            marks = json.loads(row["metadata"])
            if row["id"] in superseded or marks.get("adjudication"):
                continue
            once[row["item_id"], row["annotator"]] += 1
            counted[row["item_id"]] += not marks.get("surplus") and row["id"] not in self.given_up
        assert set(once.values()) <= {1}
        for task in self.rows(tasks):
            assert task["done"] == counted[task["item_id"]]
            if task["gold"] is None and task["item_id"] not in self.gilded:
                assert task["done"] + task["live"] <= task["wanted"]

    @invariant()
    def the_store_finds_nothing_wrong_with_itself(self) -> None:
        assert [fault for fault in self.store.check() if "were wanted" not in fault] == []

    # -- looking

    def able(self, person: str) -> bool:
        return any(desk.person.id == person for desk in self.desks)

    def pick(self, which: int) -> tuple[QueueContext, Presentation]:
        every = [(desk, shown) for desk in self.desks for shown in desk.seen]
        return every[-1 - which % len(every)]

    def rows(self, table) -> list[dict]:  # type: ignore[no-untyped-def, type-arg]
        with self.store.database.read() as connection:
            return [dict(row) for row in connection.execute(select(table)).mappings()]

    def lease(self, id: str) -> dict:  # type: ignore[type-arg]
        return next(row for row in self.rows(leases) if row["id"] == id)

    def task(self, seq: int) -> dict:  # type: ignore[type-arg]
        return next(row for row in self.rows(tasks) if row["seq"] == seq)

    def task_of(self, lease: str) -> dict:  # type: ignore[type-arg]
        return self.task(self.lease(lease)["task"])


def _empty(store: Store) -> None:
    """Make the tables of the store as new, but for the audit log, which cannot be emptied."""
    with store.database.write() as connection:
        for name in (*TABLES.split(", "), "settings"):
            connection.exec_driver_sql(f"DELETE FROM {name}")


def _run(store: Store, examples: int, steps: int) -> None:
    machine = type("Crowd_", (Crowd,), {"store": store})
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )


def test_a_day_of_a_crowd_leaves_the_queue_in_order(store: Store) -> None:
    _run(store, 4, 25)


@pytest.mark.slow
def test_many_days_of_a_crowd_leave_the_queue_in_order(store: Store) -> None:
    _run(store, 40, 60)
