"""On every database the right people come in, do what they may, and leave behind what they should."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from sqlalchemy import select

from prefloop.config import Annotate
from prefloop.errors import ConflictError, DataError, ForbiddenError, StoreError
from prefloop.labels.answer import Answer
from prefloop.store import ModelRow, People, Person, Queue, Store
from prefloop.store.schema import drafts, invites, leases, sessions, submissions
from prefloop.types import Completion, Item, Prompt, Snapshot

Opener = Callable[[], Store]
HOUR, DAY = 3600.0, 86400.0
ANSWER = Answer(((0,), (1,)), comment="my dear Ann wrote this", duration_s=5.0)


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def people(store: Store, clock: Clock) -> People:
    return People(store, clock)


@pytest.fixture
def owner(people: People) -> Person:
    return people.accept(people.owner_link() or "", "Olga", "hash")


@pytest.fixture
def team(people: People, owner: Person) -> tuple[Person, Person, Person]:
    reviewer = people.accept(people.invite(owner.id, "reviewer"), "Rex", "hash")
    annotator = people.accept(people.invite(reviewer.id, "annotator", ["law"]), "Ann", "hash")
    return owner, reviewer, annotator


# -- coming in


def test_the_owners_link_works_once_and_the_latest_only(people: People) -> None:
    first, second = people.owner_link(), people.owner_link()
    assert first and second and first != second
    with pytest.raises(ForbiddenError, match="unknown, used"):
        people.accept(first, "Olga", "hash")
    assert people.accept(second, "Olga", "hash").role == "owner"
    assert people.owner_link() is None
    with pytest.raises(ForbiddenError):
        people.accept(second, "Otto", "hash")


def test_an_invitation_gives_role_and_groups_once_and_runs_out(people: People, owner: Person, clock: Clock) -> None:
    token = people.invite(owner.id, "annotator", ["law", "law", "art"])
    waiting = people.peek(token)
    assert waiting is not None and (waiting.role, waiting.groups) == ("annotator", ("law", "art"))
    assert [invite.id for invite in people.invites()] == [waiting.id]
    ann = people.accept(token, " Ann  Lee ", "hash")
    assert (ann.name, ann.role, ann.groups) == ("Ann Lee", "annotator", ("law", "art"))
    assert people.invites() == [] and people.peek(token) is None
    late, withdrawn = people.invite(owner.id, "annotator", days=1), people.invite(owner.id, "annotator")
    people.withdraw(owner.id, people.invites()[1].id)
    clock.now += DAY
    for gone in (token, late, withdrawn, "guess"):
        with pytest.raises(ForbiddenError):
            people.accept(gone, "Bea", "hash")


def test_names_are_found_whatever_their_case_and_look_alikes_are_refused(people: People, owner: Person) -> None:
    token = people.invite(owner.id, "annotator")
    for taken in ("olga", "ＯＬＧＡ", " Olga "):
        with pytest.raises(ConflictError, match="taken"):
            people.accept(token, taken, "hash")
    for bad in ("", "  ", "x" * 65, "Ann\u202e", "Ann\u200b", "a\0b", "\ud800"):
        with pytest.raises(DataError, match="name"):
            people.accept(token, bad, "hash")
        assert people.by_login(bad) is None
    account = people.by_login("OLGA")
    assert account is not None and (account.person, account.password_hash) == (owner, "hash")


@pytest.mark.parametrize(
    "name",
    [
        "\u041elga",
        "O1ga",
        "OIga",
        "Olg\u0430",
        "\u039fLGA",
        "\u0585lga",
        "0lga",
        "ol\u0261a",
        "OLG\u0410",
    ],
)
def test_a_name_that_looks_like_another_is_refused(people: People, owner: Person, name: str) -> None:
    token = people.invite(owner.id, "annotator")
    with pytest.raises(ConflictError, match="looks like"):
        people.accept(token, name, "hash")
    assert people.peek(token) is not None


def test_names_that_differ_to_the_eye_stand_beside_each_other(people: People, owner: Person) -> None:
    """This holds also where one is the other's transcription, has an accent more, or one digit is another."""
    for name in (
        "Helga",
        "\u041e\u043b\u044c\u0433\u0430",
        "\u00d3lga",
        "Olga 1",
        "Olga 2",
        "\u674e",
        "\u5b63",
        "Torn",
        "Anna Mayer",
        "Anna Meyer",
    ):
        assert people.accept(people.invite(owner.id, "annotator"), name, "hash").name == name
    with pytest.raises(ConflictError, match="looks like"):
        people.accept(people.invite(owner.id, "annotator"), "Tom", "hash")


def test_an_invitation_used_twice_at_once_makes_one_person(people: People, owner: Person) -> None:
    token = people.invite(owner.id, "annotator")
    made: list[object] = []

    def accept(name: str) -> None:
        try:
            made.append(people.accept(token, name, "hash"))
        except ForbiddenError as error:
            made.append(error)

    threads = [threading.Thread(target=accept, args=(f"Ann {n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(isinstance(one, Person) for one in made) == 1 and len(people.list()) == 2


# -- sessions and tokens


def test_a_session_ends_after_12_idle_hours_or_14_days(people: People, owner: Person, clock: Clock) -> None:
    token, begun = people.open_session(owner.id), clock.now
    while clock.now < begun + 13 * DAY + 20 * HOUR:
        assert people.session(token) == owner
        clock.now += 11 * HOUR
    clock.now = begun + 14 * DAY
    assert people.session(token) is None
    token = people.open_session(owner.id)
    clock.now += 12 * HOUR
    assert people.session(token) is None


def test_a_new_login_ends_the_session_before_and_revoking_ends_all(people: People, owner: Person) -> None:
    first = people.open_session(owner.id)
    second = people.open_session(owner.id, replaces=first)
    assert people.session(first) is None and people.session(second) == owner
    third = people.open_session(owner.id)
    people.close_session(third)
    assert people.session(third) is None
    assert people.revoke_all(owner.id, owner.id) == 1 and people.session(second) is None
    fourth = people.open_session(owner.id)
    people.set_password(owner.id, "rehashed", keep_sessions=True)
    assert people.session(fourth) == owner
    people.set_password(owner.id, "new")
    assert people.session(fourth) is None
    account = people.by_login("olga")
    assert account is not None and account.password_hash == "new"


def test_no_token_lies_in_the_database(people: People, owner: Person, store: Store) -> None:
    tokens = [people.open_session(owner.id), people.invite(owner.id, "annotator")]
    tokens.append(people.create_token(owner.id, "ci", "read"))
    with store.database.read() as connection:
        rows = [str(row) for table in (sessions, invites) for row in connection.execute(select(table))]
    assert len(rows) == 3 and not [token for token in tokens for row in rows if token in row]
    assert all(len(token) >= 43 for token in tokens)


def test_api_tokens_are_no_sessions_and_end_with_their_owners_rank(people: People, team, clock: Clock) -> None:
    owner, reviewer, _ = team
    token = people.create_token(owner.id, "ci", "write")
    found = people.api_token(token)
    assert found is not None and (found.label, found.scope, found.created_by) == ("ci", "write", owner.id)
    assert people.session(token) is None and people.api_token(people.open_session(owner.id)) is None
    assert people.api_tokens()[0].used_at == clock.now
    with pytest.raises(ForbiddenError):
        people.create_token(reviewer.id, "ci", "read")
    people.set_role(None, reviewer.id, "owner")
    people.set_role(None, owner.id, "annotator")
    assert people.api_token(token) is None
    kept = people.create_token(None, "cron", "read")
    people.revoke_token(reviewer.id, people.api_tokens()[0].id)
    assert people.api_token(kept) is None


# -- who may do what


def test_only_those_who_may_manage(people: People, team) -> None:
    owner, reviewer, ann = team
    forbidden: list[tuple[Person, Callable[[str], object]]] = [
        (ann, lambda by: people.invite(by, "annotator")),
        (reviewer, lambda by: people.invite(by, "reviewer")),
        (reviewer, lambda by: people.invite(by, "owner")),
        (reviewer, lambda by: people.set_role(by, ann.id, "reviewer")),
        (ann, lambda by: people.set_role(by, ann.id, "owner")),
        (reviewer, lambda by: people.disable(by, ann.id)),
        (ann, lambda by: people.set_groups(by, ann.id, ["x"])),
        (ann, lambda by: people.set_limit(by, ann.id, 9)),
        (ann, lambda by: people.exclude(by, reviewer.id, "spite")),
        (reviewer, lambda by: people.exclude(by, owner.id, "spite")),
        (ann, lambda by: people.include(by, ann.id)),
        (reviewer, lambda by: people.delete(by, ann.id, keep_rankings=True)),
        (reviewer, lambda by: people.revoke_all(by, ann.id)),
        (reviewer, lambda by: people.create_token(by, "x", "read")),
    ]
    before = people.list()
    for who, attempt in forbidden:
        for by in (who.id, "p-nobody", ""):
            with pytest.raises(ForbiddenError):
                attempt(by)
    assert people.list() == before
    people.exclude(reviewer.id, ann.id, "too fast")
    people.set_groups(reviewer.id, ann.id, ["art"])
    changed = people.person(ann.id)
    assert (changed.excluded, changed.groups) == ("too fast", ("art",))


def test_a_disabled_manager_manages_nothing_and_loses_the_sessions(people: People, team) -> None:
    owner, reviewer, ann = team
    token = people.open_session(reviewer.id)
    people.disable(owner.id, reviewer.id)
    assert people.session(token) is None
    with pytest.raises(ForbiddenError):
        people.exclude(reviewer.id, ann.id, "late revenge")
    with pytest.raises(ForbiddenError, match="disabled"):
        people.open_session(reviewer.id)
    people.disable(owner.id, reviewer.id, disabled=False)
    assert people.session(token) is None and people.open_session(reviewer.id)


def test_the_last_owner_stays(people: People, team) -> None:
    owner, reviewer, _ = team
    for attempt in (
        lambda: people.set_role(owner.id, owner.id, "annotator"),
        lambda: people.disable(owner.id, owner.id),
        lambda: people.delete(owner.id, owner.id, keep_rankings=False),
    ):
        with pytest.raises(ForbiddenError, match="only owner"):
            attempt()
    people.set_role(owner.id, reviewer.id, "owner")
    people.disable(owner.id, reviewer.id)
    with pytest.raises(ForbiddenError, match="only owner"):
        people.set_role(owner.id, owner.id, "annotator")
    people.disable(owner.id, reviewer.id, disabled=False)
    people.delete(owner.id, owner.id, keep_rankings=False)
    assert [person.role for person in people.list()] == ["owner", "annotator"]


# -- leaving


@pytest.fixture
def worked(store: Store, people: People, team, clock: Clock) -> tuple[Queue, str, ModelRow]:
    """Ann has ranked three items, one of them twice, skipped none, holds a fourth; a model learnt from her."""
    ann = team[2].id
    for n in range(5):
        answers = (Completion(f"i{n}:c0", "a"), Completion(f"i{n}:c1", "b"))
        store.add([Item(f"i{n}", Prompt(f"q{n}"), answers)])
    queue = Queue(store, Annotate(overlap_share=0, gold_share=0), clock)
    queue.fill()
    for n in range(3):
        shown = queue.next(ann)
        assert shown is not None
        queue.submit(ann, shown.lease, f"uuid-{n:04}", ANSWER)
    queue.reopen(ann, shown.lease)
    superseding = queue.submit(ann, shown.lease, "uuid-0009", Answer(((1,), (0,)), comment="on second thoughts"))
    held = queue.next(ann)
    assert held is not None and superseding.ranking is not None
    queue.draft(ann, held.lease, {"comment": "half a word"})
    snapshot = store.add_snapshot(Snapshot("rankings", (superseding.ranking,)))
    model = ModelRow("reward-1", "reward", "runs/1", snapshot_hash=snapshot)
    store.add_model(model)
    store.add_model(
        ModelRow("reward-2", "reward", "runs/2", snapshot_hash=store.add_snapshot(Snapshot("rankings", ())))
    )
    return queue, ann, model


def everything(store: Store, people: People) -> str:
    rows = [str(found) for found in store.items(excluded=True)] + [str(row) for row in people.audit(1000)]
    with store.database.read() as connection:
        for table in (leases, drafts, submissions, sessions):
            rows += [str(row) for row in connection.execute(select(table))]
    return "\n".join([*rows, *map(str, people.list())])


@pytest.mark.parametrize("keep", [True, False])
def test_a_deleted_person_leaves_no_word_behind(people: People, team, worked, store: Store, keep: bool) -> None:
    queue, ann, model = worked
    owner = team[0]
    people.open_session(ann)
    assert people.models_of(ann) == [model]
    assert people.delete(owner.id, ann, keep_rankings=keep) == [model]
    left = everything(store, people)
    for word in ("Ann", "dear", "second thoughts", "half a word"):
        assert word not in left
    given = [ranking for found in store.items() for ranking in found.rankings]
    assert len(given) == (3 if keep else 0)
    assert {ranking.annotator for ranking in given} & {ann} == set()
    assert store.counts()["rankings"] == (4 if keep else 0)
    quota = queue.quota()
    assert (quota.done, quota.live, quota.open) == ((3, 0, 2) if keep else (0, 0, 5))
    assert store.check() == []
    assert people.by_login("Ann") is None
    with pytest.raises(ForbiddenError):
        queue.next(ann)


def test_rankings_kept_of_an_excluded_person_stay_out_of_training(people: People, team, worked, store: Store) -> None:
    _, ann, _ = worked
    people.exclude(None, ann, "too fast")
    people.delete(None, ann, keep_rankings=True)
    assert list(store.items(ranked=True)) == []
    (unknown,) = {ranking.annotator for found in store.items(excluded=True) for ranking in found.rankings}
    assert unknown not in (ann, "") and people.person(unknown).name is None
    with pytest.raises(ForbiddenError):
        people.include(None, unknown)


# -- the log


def test_the_audit_log_says_who_did_what_without_names(people: People, team, clock: Clock) -> None:
    owner, reviewer, ann = team
    clock.now += 5
    people.exclude(reviewer.id, ann.id, "too fast")
    people.record(ann.id, "refused", "GET /people")
    log = people.audit(100)
    assert [(line.who, line.what, line.object) for line in log[-2:]] == [
        (reviewer.id, "exclude", ann.id),
        (ann.id, "refused", "GET /people"),
    ]
    assert log[-2].at == clock.now and log[-2].before != log[-2].after and log[-2].before is not None
    assert people.audit(2, after=log[3].number) == log[4:6]
    assert not [line for line in log if "Ann" in str(line) or "too fast" in str(line)]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET who = 'p-other'",
        "DELETE FROM audit",
        "INSERT OR REPLACE INTO audit (seq, at, what, object) VALUES (1, 0, 'x', 'y')",
        "TRUNCATE audit",
    ],
)
def test_the_audit_log_only_grows(people: People, owner: Person, store: Store, statement: str) -> None:
    if store.database.sqlite == statement.startswith("TRUNCATE") or (
        not store.database.sqlite and "OR REPLACE" in statement
    ):
        pytest.skip("not a statement of this database")
    before = people.audit()
    with pytest.raises(StoreError, match="only grows"), store.database.write() as connection:
        connection.exec_driver_sql(statement)
    assert people.audit() == before != []


def test_a_secret_is_made_once(people: People, opener: Opener) -> None:
    made = people.secret("webhooks")
    assert len(made) == 64 and made == People(opener()).secret("webhooks") != people.secret("other")
