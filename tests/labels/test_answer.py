"""Answers by letter are refused for the right reasons, and nothing is lost on the way to a ranking and back."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefloop.config import Annotate
from prefloop.errors import AnswerError, DataError
from prefloop.labels.answer import FLAGS, Answer, check, from_json, from_ranking, to_ranking
from prefloop.labels.ranking import check as check_ranking

PLAIN = Annotate(attributes=("helpful",))
GOOD = Answer(((0,), (1, 2)), ratings={0: {"helpful": 5}}, flags={1: ("pii",)}, comment="ok", duration_s=3.5)


@st.composite
def answers(draw: st.DrawFn, count: int = 4) -> Answer:
    """Draw anything that `check` takes for four cards, complete or partial."""
    places = draw(st.permutations(range(count)))
    placed = places[: draw(st.integers(2, count))]
    tiers: list[list[int]] = []
    for place in placed:
        if tiers and draw(st.booleans()):
            tiers[-1].append(place)
        else:
            tiers.append([place])
    some = st.lists(st.integers(0, count - 1), unique=True)
    return Answer(
        tiers=tuple(map(tuple, tiers)),
        unacceptable=tuple(draw(some)),
        none_acceptable=draw(st.booleans()),
        ratings={place: {"helpful": draw(st.integers(1, 5))} for place in draw(some)},
        flags={p: tuple(draw(st.lists(st.sampled_from(FLAGS), unique=True, min_size=1))) for p in draw(some)},
        comment=draw(st.none() | st.just("because")),
        duration_s=draw(st.none() | st.floats(0, 1000)),
        dwell_s=tuple(draw(st.just([]) | st.lists(st.floats(0, 99), min_size=count, max_size=count))),
    )


@given(answers())
def test_an_answer_survives_json_and_the_way_to_a_ranking_and_back(answer: Answer) -> None:
    check(answer, 4, replace_partial(PLAIN))
    assert from_json(json.loads(json.dumps(answer.to_json()))) == answer
    ids = ["i:c2", "i:c0", "i:c3", "i:c1"]
    ranking = to_ranking(
        answer,
        ids,
        {"arm": "random"},
        item_id="i",
        annotator="p",
        criterion="q",
        created_at="t",
        supersedes=None,
        ordinal=0,
    )
    assert from_ranking(ranking) == answer
    assert ranking.metadata["arm"] == "random" and ranking.shown == tuple(ids)
    check_ranking(ranking, ids, allow_partial=True)


def replace_partial(settings: Annotate) -> Annotate:
    return settings.model_copy(update={"partial": True})


@given(st.lists(st.lists(st.integers(-1, 4), max_size=4), max_size=4), st.lists(st.integers(-1, 4)), st.booleans())
def test_letters_and_ids_are_judged_by_the_same_rules(tiers: list[list[int]], bad: list[int], none: bool) -> None:
    """`check` refuses exactly what `labels.ranking.check` refuses once letters are ids."""
    answer = Answer(tuple(map(tuple, tiers)), tuple(bad), none)
    ids = ["a", "b", "c", "d"]
    for partial in (False, True):
        rules = PLAIN.model_copy(update={"partial": partial})
        try:
            check(answer, 4, rules)
            fits = True
        except AnswerError:
            fits = False
        places = {p for tier in tiers for p in tier} | set(bad)
        if not places <= set(range(4)):
            assert not fits
            continue
        ranking = to_ranking(
            answer, ids, {}, item_id="i", annotator="p", criterion="q", created_at="t", supersedes=None, ordinal=0
        )
        try:
            check_ranking(ranking, ids, allow_partial=partial)
            assert fits
        except DataError:
            assert not fits


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tiers": ((0,), (1,))}, "C has no rank yet"),
        ({"tiers": ((0,), (1, 3))}, "position 3 is in the ranking, but 3 answers were shown"),
        ({"tiers": ((0,), (1, 0), (2,))}, "A is in the ranking twice"),
        ({"tiers": ((0,), (), (1, 2))}, "rank 2 is empty"),
        ({"tiers": ()}, "fewer than two answers"),
        ({"unacceptable": (1, 1)}, "B is marked unacceptable twice"),
        ({"unacceptable": (-1,)}, "position -1"),
        ({"ratings": {0: {"charm": 3}}}, "'charm' is not rated here"),
        ({"ratings": {0: {"helpful": 6}}}, "rated 6"),
        ({"ratings": {9: {"helpful": 3}}}, "position 9"),
        ({"flags": {0: ("silly",)}}, "flags silly"),
        ({"flags": {0: ("pii", "pii")}}, "not distinct"),
        ({"comment": "x" * 5001}, "5001 characters"),
        ({"comment": "a\0b"}, "cannot be stored"),
        ({"comment": "\ud800"}, "cannot be stored"),
        ({"duration_s": float("nan")}, "must be seconds"),
        ({"duration_s": -1.0}, "must be seconds"),
        ({"dwell_s": (1.0,)}, "1 times for 3 answers"),
        ({"dwell_s": (1.0, float("inf"), 1.0)}, "must be seconds"),
    ],
)
def test_what_does_not_answer_the_question_is_refused_with_a_reason(change: dict, said: str) -> None:
    check(GOOD, 3, PLAIN)
    with pytest.raises(AnswerError, match=said):
        check(replace(GOOD, **change), 3, PLAIN)


def test_the_projects_rules_decide_on_partial_none_acceptable_and_reasons() -> None:
    partial = Answer(((0,), (1,)))
    check(partial, 3, Annotate(partial=True))
    check(Answer((), none_acceptable=True), 2, Annotate())
    check(Answer((), unacceptable=(0, 1)), 2, Annotate())
    with pytest.raises(AnswerError, match="does not offer"):
        check(Answer((), none_acceptable=True), 2, Annotate(none_acceptable=False))
    with pytest.raises(AnswerError, match="asks for a reason"):
        check(Answer(((0, 1),), comment="  "), 2, Annotate(rationale="required"))
    with pytest.raises(AnswerError, match="takes no comments"):
        check(Answer(((0, 1),), comment="hm"), 2, Annotate(rationale="off"))


@pytest.mark.parametrize(
    "body",
    [
        None, [], "x", {}, {"tiers": 3}, {"tiers": [0, 1]}, {"tiers": [["0"]]}, {"tiers": [[True]]}, {"tiers": [[0.0]]},
        {"tiers": [[0]], "score": 1}, {"tiers": [[0]], "none_acceptable": 1}, {"tiers": [[0]], "comment": 5},
        {"tiers": [[0]], "ratings": {"x": {}}}, {"tiers": [[0]], "ratings": {"0": {"a": "5"}}},
        {"tiers": [[0]], "ratings": {"00": {}}}, {"tiers": [[0]], "flags": {"0": "pii"}},
        {"tiers": [[0]], "duration_s": "3"}, {"tiers": [[0]], "duration_s": float("nan")},
        {"tiers": [[0]], "duration_s": 10**400}, {"tiers": [[0]], "dwell_s": [None]},
    ],
)  # fmt: skip
def test_a_body_of_the_wrong_types_is_refused(body: object) -> None:
    with pytest.raises(AnswerError):
        from_json(body)


def test_the_same_words_have_the_same_body_however_long_they_took() -> None:
    assert replace(GOOD, duration_s=9.0, dwell_s=(1.0, 1.0, 1.0)).body == GOOD.body
    assert replace(GOOD, tiers=((0,), (2, 1))).body == GOOD.body, "a tie has no order"
    for change in (
        {"tiers": ((1, 2), (0,))},
        {"unacceptable": (0,)},
        {"comment": "no"},
        {"flags": {}},
        {"ratings": {}},
    ):
        assert replace(GOOD, **change).body != GOOD.body
