"""Without a browser, the ranking screen's calls and the reviewers' pages refuse and write what they should."""

from __future__ import annotations

import html
import json
import re
import time
from collections.abc import Callable
from typing import Any

import pytest

from prefloop.errors import StoreError
from prefloop.labels.answer import FLAGS, SKIP_REASONS, Answer
from prefloop.store.queue.types import Presentation
from prefloop.types import Completion, Item, Message, Prompt
from prefloop.web.views import agreement as agreement_view
from prefloop.web.views import present
from prefloop.web.views import review as review_view
from prefloop.web.views.agreement import Figures

UUID = "00000000-0000-4000-8000-{:012d}"
ORDER = Answer(((0,), (1,), (2,))).to_json()


def an_item(name: str, count: int = 3) -> Item:
    answers = tuple(Completion(f"{name}:c{i}", f"Answer {i} to {name}.") for i in range(count))
    return Item(name, Prompt(f"Question {name}?"), answers)


@pytest.fixture
def make(make_server: Callable[..., Any]) -> Callable[..., Any]:
    def made(items: list[Item], **annotate: Any) -> Any:
        server = make_server(**{"gold_share": 0.0, "overlap_share": 0.0, **annotate})
        server.store.add(items)
        server.queue.fill()
        return server

    return made


def person(server: Any, name: str, role: str = "annotator") -> Any:
    server.join(role, name)
    return server.browser(name)


def lease_of(answer: Any) -> str:
    found = re.search(r'data-lease="([^"]+)"', answer.text)
    assert found, answer.text[:300]
    return found.group(1)


def take(browser: Any) -> str:
    return lease_of(browser.post("/rank/next", json={}))


def submit(browser: Any, lease: str, n: int = 1, answer: Any = None) -> Any:
    return browser.post(f"/rank/{lease}/submit", json={"uuid": UUID.format(n), "answer": answer or ORDER})


def rankings(server: Any) -> list[Any]:
    return [ranking for item in server.store.items() for ranking in item.rankings]


def test_opening_the_page_takes_nothing_from_the_queue(make: Any) -> None:
    server = make([an_item("a")])
    ada = person(server, "Ada")
    for path in ("/rank", "/history", "/guidelines"):
        assert ada.get(path).status_code == 200
    assert server.queue.quota().live == 0
    take(ada)
    assert server.queue.quota().live == 1


def test_a_submit_sent_twice_is_one_ranking_and_another_body_is_refused(make: Any) -> None:
    server = make([an_item("a"), an_item("b")])
    ada = person(server, "Ada")
    lease = take(ada)
    assert submit(ada, lease).status_code == submit(ada, lease).status_code == 200
    other = Answer(((2,), (1,), (0,))).to_json()
    assert submit(ada, lease, answer=other).status_code == 409
    assert len(rankings(server)) == 1


def test_what_was_fetched_ahead_is_another_item_and_comes_next(make: Any) -> None:
    server = make([an_item("a"), an_item("b")])
    ada = person(server, "Ada")
    first = take(ada)
    ahead = lease_of(ada.post("/rank/next", json={"after": first}))
    assert ahead != first and take(ada) == first
    submit(ada, first)
    assert take(ada) == ahead


@pytest.mark.parametrize("what", ["submit", "skip", "draft", "heartbeat", "reopen"])
def test_anothers_lease_is_as_unknown_as_one_that_never_was(make: Any, what: str) -> None:
    server = make([an_item("a"), an_item("b")])
    ada, ben = person(server, "Ada"), person(server, "Ben")
    lease = take(ada)
    body = {
        "submit": {"uuid": UUID.format(1), "answer": ORDER},
        "skip": {"uuid": UUID.format(1), "reason": "other"},
        "draft": {"state": {}},
        "heartbeat": {},
        "reopen": {},
    }[what]
    foreign, nobody = (ben.post(f"/rank/{each}/{what}", json=body) for each in (lease, "x" * len(lease)))
    assert foreign.status_code == nobody.status_code == 404
    assert foreign.text.replace(lease, "") == nobody.text.replace("x" * len(lease), "")
    assert rankings(server) == []


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"uuid": "no uuid", "answer": ORDER},
        {"uuid": UUID.format(1)},
        {"uuid": UUID.format(1), "answer": []},
        {"uuid": UUID.format(1), "answer": {**ORDER, "tiers": [[0], [1]]}},
        {"uuid": UUID.format(1), "answer": {**ORDER, "tiers": [[0], [1], [3]]}},
        {"uuid": UUID.format(1), "answer": {**ORDER, "model": "x"}},
        {"uuid": UUID.format(1), "answer": ORDER, "annotator": "p-somebody"},
    ],
)
def test_what_is_no_answer_is_refused_in_words_and_nothing_is_written(make: Any, body: Any) -> None:
    server = make([an_item("a")])
    ada = person(server, "Ada")
    lease = take(ada)
    answer = ada.post(f"/rank/{lease}/submit", json=body, headers={"accept": "application/json"})
    assert answer.status_code == 422 and answer.json()["error"]
    assert rankings(server) == []


def test_a_draft_comes_back_with_the_item(make: Any) -> None:
    server = make([an_item("a")])
    ada = person(server, "Ada")
    lease = take(ada)
    state = {"lease": lease, "at": 5, "state": {"slots": [1, 0, 2], "comment": '<b>"quoted"</b>'}}
    assert ada.post(f"/rank/{lease}/draft", json={"state": state}).status_code == 200
    found = re.search(r'data-draft="([^"]*)"', ada.post("/rank/next", json={}).text)
    assert found and json.loads(html.unescape(found.group(1))) == state


def test_skipping_takes_only_known_reasons(make: Any) -> None:
    server = make([an_item("a")])
    ada = person(server, "Ada")
    lease = take(ada)
    assert ada.post(f"/rank/{lease}/skip", json={"uuid": UUID.format(1), "reason": "bored"}).status_code == 422
    assert ada.post(f"/rank/{lease}/skip", json={"uuid": UUID.format(1), "reason": "unclear"}).status_code == 200
    assert "done" in ada.post("/rank/next", json={}).text


def test_a_flag_set_before_a_skip_is_seen_by_reviewers(make: Any) -> None:
    server = make([an_item("a")])
    server.join("reviewer", "Rita")
    ada, rita = person(server, "Ada"), server.browser("Rita")
    lease = take(ada)
    answer = Answer((), flags={1: ("pii",)}, comment="a <b>phone</b> number").to_json()
    assert ada.post(
        f"/rank/{lease}/skip", json={"uuid": UUID.format(1), "reason": "other", "answer": answer}
    ).is_success
    for kind in ("flagged", "waiting"):
        assert "pii 1" in rita.get(f"/review?kind={kind}").text, kind
    page = rita.get("/review/items/a").text
    assert re.search("[ABC]: pii", page) and "a &lt;b&gt;phone&lt;/b&gt; number" in page


def test_an_answer_can_be_reopened_and_replaced(make: Any) -> None:
    server = make([an_item("a")])
    ada = person(server, "Ada")
    lease = take(ada)
    submit(ada, lease)
    assert ada.post("/rank/given", json={}).json() == {"leases": [lease]}
    again = ada.post(f"/rank/{lease}/reopen", json={})
    found = re.search(r'data-answer="([^"]*)"', again.text)
    assert found and json.loads(html.unescape(found.group(1)))["tiers"] == [[0], [1], [2]]
    assert submit(ada, lease, 2, Answer(((2,), (0, 1))).to_json()).status_code == 200
    assert [len(r.tiers) for r in rankings(server)] == [2]  # Of the two events, this is the effective one.
    assert "C, then A = B" in ada.get("/history").text


def test_guidelines_are_shown_as_they_are_now_or_said_to_be_missing(make: Any, tmp_path: Any) -> None:
    server = make([an_item("a")])
    ada = person(server, "Ada")
    assert "no guidelines yet" in ada.get("/guidelines").text
    (tmp_path / "guidelines.md").write_bytes(b"# Be **fair** \xff <script>x</script>")
    text = ada.get("/rank").text
    assert "Be <strong>fair</strong>" in text and "<script>x" not in text


def test_a_person_without_work_is_told_why(make: Any) -> None:
    server = make([an_item("a")], limit=1)
    ada = person(server, "Ada")
    submit(ada, take(ada))
    assert "your share" in ada.post("/rank/next", json={}).text
    assert "All done" in person(server, "Ben").post("/rank/next", json={}).text


@pytest.mark.parametrize("again", ["", "../../review", "a b", "x" * 300, "é", "1/../2", "%2e%2e"])
def test_the_address_to_reopen_is_a_lease_or_nothing(make: Any, again: str) -> None:
    server = make([])
    text = person(server, "Ada").get("/rank", params={"again": again}).text
    assert re.search(r'data-open=""', text)


# -- reviewers ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def disputed(make: Any) -> Any:
    """Return one item that Ada and Ben see the other way round, one that they agree on and Ada flags, and 30 unseen
    ones.
    """
    server = make([an_item("a"), an_item("b"), *(an_item(f"n{i}") for i in range(60))], overlap=2, overlap_many=2)
    for n, who in enumerate(("Ada", "Ben")):
        server.join("annotator", who)
        me = server.people.by_login(who).person.id
        for k in range(2):
            given = server.queue.next(me)
            order = sorted(range(3), key=lambda i: given.texts[i], reverse="to a." in given.texts[0] and n == 1)
            flags = {0: ("wrong",)} if "to b." in given.texts[0] and n == 0 else {}
            server.queue.submit(me, given.lease, UUID.format(k), Answer(tuple((i,) for i in order), flags=flags))
    return server


def kinds(server: Any) -> dict[str, list[str]]:
    found = {k: review_view.listing(server.queue, server.store, "quality", k, 0) for k in review_view.KINDS}  # type: ignore[arg-type]
    return {k: [line.row.item for line in listing.lines] for k, listing in found.items()}


def test_lists_say_where_people_disagree_and_what_they_flagged(disputed: Any) -> None:
    ranked = sorted({r.item_id for r in rankings(disputed)})
    lists = kinds(disputed)
    assert sorted(lists["several"]) == ranked
    if ranked == ["a", "b"]:
        assert (lists["disagreement"], lists["flagged"]) == (["a"], ["b"])
    assert len(lists["all"]) == review_view.PAGE


def test_pages_of_a_list_join_without_gap_or_overlap(disputed: Any) -> None:
    seen: list[int] = []
    after: int | None = 0
    while after is not None:
        found = review_view.listing(disputed.queue, disputed.store, "quality", "all", after)
        seen += [line.row.number for line in found.lines]
        after = found.after
    assert len(seen) == len(set(seen)) == 62 and seen == sorted(seen)


def test_a_scanning_list_goes_on_where_it_stopped(disputed: Any, monkeypatch: Any) -> None:
    """A filter that finds little looks through a bounded number of rows a page, and loses none."""
    monkeypatch.setattr(review_view, "SCAN", 1)
    monkeypatch.setattr(review_view, "_CHUNK", 1)
    whole = kinds(disputed)["flagged"]
    found: list[str] = []
    after: int | None = 0
    for _ in range(10):
        if after is None:
            break
        page = review_view.listing(disputed.queue, disputed.store, "quality", "flagged", after)
        found += [line.row.item for line in page.lines]
        after = page.after
    assert after is None and set(whole) <= set(found)


def test_opposition_counts_pairs_that_two_people_put_in_opposite_orders(disputed: Any) -> None:
    from prefloop.types import Ranking

    def said(*tiers: tuple[str, ...], **more: Any) -> Ranking:
        return Ranking("a", "x", "quality", tiers, **more)

    one, other = said(("a",), ("b",), ("c",)), said(("c",), ("a", "b"))
    assert review_view.opposition([one, other]) == (2, 2)  # They are a-c and b-c; the tie orders nothing.
    assert review_view.opposition([one, one]) == (0, 3)
    assert review_view.opposition([one]) == (0, 0)
    assert review_view.opposition([one, said(("c",), ("b",), ("a",), metadata={"adjudication": True})]) == (0, 0)


def test_an_annotator_gets_no_reviewers_page(disputed: Any) -> None:
    ada = disputed.browser("Ada")
    for path in ("/review", "/review/items/a", "/review/items/a/adjudicate", "/agreement"):
        assert ada.get(path).status_code == 403
    for path in ("task", "give-back", "discard", "restore", "gold", "exclude"):
        assert ada.post(f"/review/items/a/{path}", data={"person": "x", "reason": "x"}).status_code == 403
    assert ada.post("/review/items/a/adjudicate", json={"uuid": UUID.format(9), "answer": ORDER}).status_code == 403


def test_a_reviewers_actions_reach_the_store(disputed: Any) -> None:
    rita = person(disputed, "Rita", "reviewer")
    item = rankings(disputed)[0].item_id
    ben = disputed.people.by_login("Ben").person.id
    here = f"/review/items/{item}"
    assert rita.get(here).status_code == 200
    body = {"uuid": UUID.format(7), "answer": ORDER}
    assert rita.post(f"{here}/adjudicate", json=body).json() == {"saved": True}
    assert any(one.adjudication for one in disputed.queue.view(item).said)
    ranking = disputed.queue.view(item).said[0].ranking
    assert rita.post(f"{here}/gold", data={"ranking": ranking.id}).status_code == 303
    assert disputed.queue.view(item).gold == ranking.tiers
    assert rita.post(f"{here}/gold", data={"ranking": "no such"}).status_code == 422
    assert rita.post(f"{here}/gold").status_code == 303
    assert disputed.queue.view(item).gold is None
    assert rita.post(f"{here}/give-back", data={"person": ben, "note": "look"}).status_code == 303
    assert disputed.queue.next(ben).returned == "look"
    assert rita.post(f"{here}/exclude", data={"person": ben, "reason": "  "}).status_code == 422
    assert rita.post(f"{here}/exclude", data={"person": ben, "reason": "spam"}).status_code == 303
    assert disputed.people.person(ben).excluded == "spam"
    assert rita.post(f"{here}/discard", data={"reason": "bad"}).status_code == 303
    assert disputed.queue.view(item).discarded == "bad"
    assert rita.post(f"{here}/restore").status_code == 303
    assert disputed.queue.view(item).discarded is None
    assert rita.get("/review/items/none").status_code == 422


def test_the_agreement_page_shows_what_was_counted(disputed: Any) -> None:
    rita = person(disputed, "Rita", "reviewer")
    end = time.monotonic() + 60
    while "being counted" in (page := rita.get("/agreement").text):
        assert time.monotonic() < end
    assert "Krippendorff" in page and "Ada" in page and "Ben" in page
    assert rita.get("/agreement", params={"criterion": "beauty"}).status_code == 422


def test_figures_are_counted_once_for_a_while_and_a_failure_is_told_once(disputed: Any) -> None:
    known = disputed.app.state.services
    figures, end = Figures(), time.monotonic() + 60

    def look() -> Any:
        return figures.get(known.root, known.config, known.store, "quality")

    while (first := look()).counting:
        assert time.monotonic() < end
    assert look().counted is first.counted, "nothing has changed"
    known.people.record(None, "gold", "a")
    again = look()
    assert again.counted is first.counted and again.counting, "the page says that newer figures are on their way"

    broken = Figures()
    with pytest.raises(StoreError, match="no store"):
        while time.monotonic() < end:
            broken.get(known.root / "elsewhere", known.config, known.store, "quality")


def two_disagree(server: Any, *, flag: str = "") -> None:
    """Let Ada and Ben rank everything; on every item but `flag`, which Ada flags, they do it in opposite orders."""
    for who in ("Ada", "Ben"):
        me = server.join("annotator", who)
        while (given := server.queue.next(me)) is not None:
            flagged = given.texts[0].endswith(f"to {flag}.")
            order = sorted(range(3), key=lambda i: given.texts[i], reverse=who == "Ben" and not flagged)
            flags = {0: ("wrong",)} if flagged and who == "Ada" else {}
            answer = Answer(tuple((i,) for i in order), flags=flags)
            server.queue.submit(me, given.lease, f"uuid-{me}-{given.position}", answer)


def test_figures_that_are_out_of_date_are_counted_again(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    disputed = make([an_item("a"), an_item("b")], overlap=2)
    two_disagree(disputed, flag="b")
    known, end = disputed.app.state.services, time.monotonic() + 60
    monkeypatch.setattr(agreement_view, "FRESH_S", 0.0)
    monkeypatch.setattr(agreement_view, "SHARE", 0.0)
    figures = Figures()

    def settled() -> Any:
        while (found := figures.get(known.root, known.config, known.store, "quality")).counting:
            assert time.monotonic() < end
        return found.counted

    first = settled()
    assert (first.flagged, first.split) == (1, 1), "of the flagged item and the one that two people order oppositely"
    disputed.queue.discard(None, "b", "broken")
    second = settled()
    assert (second.flagged, second.split) == (0, 1) and second.at > first.at


# -- what is shown -----------------------------------------------------------------------------------------------------


def test_every_flag_and_reason_has_words() -> None:
    shown = present.choices()
    assert [flag for flag, _ in shown["flags"]] == list(FLAGS)
    assert [reason for reason, _ in shown["skip_reasons"]] == list(SKIP_REASONS)


def test_a_chat_is_turns_and_a_plain_prompt_is_one_without_a_name() -> None:
    chat = Prompt((Message("user", "Hi *there*"), Message("tool", "x")), system="Be brief.")
    assert [(t.name, t.kind) for t in present.turns(chat)] == [
        ("System", "system"),
        ("User", "user"),
        ("Tool", "other"),
    ]
    assert "<em>there</em>" in present.turns(chat)[1].html and str(present.turns(chat)[1].raw) == "Hi *there*"
    for asked in ("Hi", (Message("user", "Hi"),)):
        assert [(t.name, t.kind) for t in present.turns(Prompt(asked))] == [("", "user")]
    for one in (Message("assistant", "Hi"), Message("user", "Hi", {"name": "Ann"})):
        assert [bool(t.name) for t in present.turns(Prompt((one,)))] == [True], "that says more than a question does"


def test_letters_follow_the_order_shown() -> None:
    given = Presentation("l", 100.0, Prompt("?"), ("x y", "z"), ((), ()), "quality", (), None, None, 1, None)
    page = present.task_page(given, None, now=40.5)
    assert [(card.name, str(card.raw)) for card in page.cards] == [("A", "x y"), ("B", "z")]
    assert (page.seconds_left, page.words) == (59, 4)
    assert present.task_page(given, None, now=200).seconds_left == 0


def test_an_answer_in_words() -> None:
    answer = Answer(((1,), (2, 0)), unacceptable=(2,), none_acceptable=True)
    assert present.in_words(answer) == "B, then A = C; unacceptable: C; none acceptable"
    assert present.in_words(Answer((), none_acceptable=True)) == "none acceptable"
