"""Rankings made in Argilla and in Label Studio are read in each shape in which these tools write them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefloop.exchange import RowError, read, sniff, write_rankings
from prefloop.exchange.formats.argilla import _stem
from prefloop.types import Item, Message

FIELDS = {"prompt": "hello?", "reply-1": "one", "reply-2": "two", "reply-3": "three"}
RANKS = [{"value": "reply-2", "rank": 1}, {"value": "reply-1", "rank": 2}, {"value": "reply-3", "rank": 2}]
ARGILLA: dict[str, dict[str, Any]] = {
    "server": {
        "id": "7",
        "fields": FIELDS,
        "responses": [{"user_id": "u1", "status": "submitted", "values": {"better": {"value": RANKS}}}],
    },
    "1.x feedback": {
        "external_id": "7",
        "fields": FIELDS,
        "suggestions": [{"question_name": "better", "value": RANKS[::-1], "agent": "gpt"}],
        "responses": [{"user_id": "u1", "status": "submitted", "values": {"better": {"value": RANKS}}}],
        "metadata": {},
    },
    "2.x to_json": {
        "id": "7",
        "fields": FIELDS,
        "metadata": {},
        "suggestions": {"better": {"value": ["reply-3", "reply-2", "reply-1"], "score": None, "agent": "gpt"}},
        "responses": {"better": [{"value": RANKS, "user_id": "u1"}]},
        "vectors": {"v": [0.5]},
        "status": "completed",
        "_server_id": "s",
    },
    "2.x to_datasets": {
        **FIELDS,
        "id": "7",
        "status": "completed",
        "_server_id": "s",
        "better.responses": [RANKS],
        "better.responses.users": ["u1"],
        "better.responses.status": ["submitted"],
        "better.suggestion": ["reply-3", "reply-2", "reply-1"],
        "better.suggestion.score": None,
    },
    "1.x datasets": {
        **FIELDS,
        "external_id": "7",
        "better": [
            {
                "user_id": "u1",
                "status": "submitted",
                "value": {"rank": [1, 2, 2], "value": ["reply-2", "reply-1", "reply-3"]},
            }
        ],
        "better-suggestion": {"rank": [1, 2, 3], "value": ["reply-3", "reply-2", "reply-1"]},
        "better-suggestion-metadata": {"agent": "gpt"},
    },
}


def one(tmp_path: Path, record: object) -> Any:
    path = tmp_path / "file.jsonl"
    path.write_text(json.dumps(record) + "\n")
    (found,) = read(path)
    return found


def tiers(item: Item, ranking: int = 0) -> list[list[str]]:
    texts = {c.id: c.text for c in item.completions}
    return [[texts[i] for i in tier] for tier in item.rankings[ranking].tiers]


def refused(tmp_path: Path, record: object, reason: str) -> None:
    found = one(tmp_path, record)
    assert isinstance(found, RowError) and reason in found.reason


@pytest.mark.parametrize("shape", ARGILLA)
def test_an_argilla_ranking_is_the_same_in_every_shape(tmp_path: Path, shape: str) -> None:
    item = one(tmp_path, ARGILLA[shape])
    assert isinstance(item, Item) and sniff(tmp_path / "file.jsonl") == "argilla"
    assert tiers(item) == [["two"], ["one", "three"]]
    (said,) = item.rankings
    assert (said.annotator, said.criterion, said.simulated) == ("u1", "better", False)
    assert [c.local_id for c in item.completions] == ["reply-1", "reply-2", "reply-3"]
    assert item.prompt.content == "hello?" and item.external_id == "7"
    assert not item.metadata, "a suggestion is a model's and a vector nobody's"


def test_a_ranking_of_the_sdk_is_a_strict_order(tmp_path: Path) -> None:
    record = {**ARGILLA["2.x to_json"], "responses": {"better": [{"value": ["reply-3", "reply-1"], "user_id": "u1"}]}}
    assert tiers(one(tmp_path, record)) == [["three"], ["one"]]


def test_only_submitted_answers_count_and_people_stay_apart(tmp_path: Path) -> None:
    def said(user: str, status: str, first: str) -> dict[str, Any]:
        order = sorted(("reply-1", "reply-2"), key=lambda name: name != first)
        ranks = [{"value": name, "rank": n} for n, name in enumerate(order, start=1)]
        values = {"better": {"value": ranks}, "why": {"value": f"because {user}"}}
        return {"user_id": user, "status": status, "values": values, "updated_at": f"2024-0{user[1]}"}

    responses = [said("u1", "submitted", "reply-1"), said("u2", "draft", "reply-2"), said("u3", "discarded", "reply-2")]
    responses += [said("u4", "submitted", "reply-2"), {"user_id": "u5", "status": "discarded", "values": None}]
    item = one(tmp_path, {"fields": FIELDS, "responses": responses})
    assert [(r.annotator, tiers(item, n)[0]) for n, r in enumerate(item.rankings)] == [("u1", ["one"]), ("u4", ["two"])]
    assert item.rankings[1].metadata == {"answers": {"why": "because u4"}}
    assert item.rankings[1].created_at == "2024-04"


def test_options_without_a_rank_are_unranked_and_their_fields_are_completions(tmp_path: Path) -> None:
    ranks = [{"value": "reply-2", "rank": 1}, {"value": "reply-1", "rank": 2}, {"value": "reply-3", "rank": None}]
    item = one(tmp_path, {"fields": FIELDS, "responses": {"better": [{"value": ranks, "user_id": "u"}]}})
    assert tiers(item) == [["two"], ["one"]] and len(item.completions) == 3
    item = one(tmp_path, {"fields": FIELDS, "responses": {"better": [{"value": ranks[:2], "user_id": "u"}]}})
    assert len(item.completions) == 3, "reply-3 is a completion that nobody ranked"


def test_unanswered_records_come_in_to_be_ranked_here(tmp_path: Path) -> None:
    item = one(tmp_path, {"fields": FIELDS, "responses": {}})
    assert len(item.completions) == 3 and not item.rankings


def test_other_fields_and_metadata_are_kept_and_a_system_prompt_is_one(tmp_path: Path) -> None:
    shown = {**FIELDS, "system_prompt": "be kind", "context": "from a book"}
    record = {"fields": shown, "responses": {"better": [{"value": RANKS, "user_id": "u"}]}, "metadata": {"split": 3}}
    item = one(tmp_path, record)
    assert item.prompt.system == "be kind" and item.metadata == {"split": 3, "context": "from a book"}


def test_a_chat_field_is_a_prompt_of_messages(tmp_path: Path) -> None:
    shown = {**FIELDS, "prompt": None, "chat": [{"role": "user", "content": "hi"}]}
    item = one(tmp_path, {"fields": shown, "responses": {"better": [{"value": RANKS, "user_id": "u"}]}})
    assert item.prompt.content == (Message("user", "hi"),)


def test_labels_are_no_ranking(tmp_path: Path) -> None:
    answers = {"topics": [{"value": ["art", "law"], "user_id": "u"}], "better": [{"value": RANKS, "user_id": "u"}]}
    item = one(tmp_path, {"fields": FIELDS, "responses": answers})
    assert [r.criterion for r in item.rankings] == ["better"]
    assert item.rankings[0].metadata == {"answers": {"topics": ["art", "law"]}}


def test_what_argilla_does_not_tell_is_an_error_that_says_so(tmp_path: Path) -> None:
    def with_fields(**shown: Any) -> dict[str, Any]:
        return {"fields": shown, "responses": {"better": [{"value": RANKS, "user_id": "u"}]}}

    refused(tmp_path, with_fields(prompt="p", a="x", b="y"), "ranks 'reply-2', and no field is called so")
    replies = {name: text for name, text in FIELDS.items() if name != "prompt"}
    refused(
        tmp_path, with_fields(**replies, left="l", right="r"), "cannot tell which of ['left', 'right'] is the prompt"
    )
    refused(tmp_path, {"fields": {"prompt": "p", "answer": "a"}, "responses": []}, "no ranking question was answered")
    twice = [RANKS[0], RANKS[0]]
    refused(tmp_path, {"fields": FIELDS, "responses": {"q": [{"value": twice, "user_id": "u"}]}}, "one option twice")


def test_options_are_found_in_spite_of_case_and_dashes(tmp_path: Path) -> None:
    shown = {"prompt": "p", "Response 1": "one", "Response 2": "two"}
    ranks = [{"value": "response-2", "rank": 1}, {"value": "response-1", "rank": 2}]
    assert tiers(one(tmp_path, {"fields": shown, "responses": {"q": [{"value": ranks, "user_id": "u"}]}})) == [
        ["two"],
        ["one"],
    ]


@pytest.mark.parametrize(
    ("name", "stem"),
    [("reply-1", "reply"), ("reply 12", "reply"), ("gen_b", "gen"), ("r2", "r"), ("data", "data"), ("1", "1")],
)
def test_numbered_fields_belong_together(name: str, stem: str) -> None:
    assert _stem(name) == stem


# -- Label Studio ------------------------------------------------------------------------------------------------------

ENTRIES = [
    {"id": "a", "title": "model A", "body": "one"},
    {"id": "b", "title": "model B", "body": "two"},
    {"id": 3, "title": "", "html": "three"},
]


def task(*ranked: object, **more: Any) -> dict[str, Any]:
    annotations = [
        {
            "id": n,
            "completed_by": {"id": 10 + n, "email": "ann@example.org"},
            "created_at": "2024-01-01T00:00:00Z",
            "lead_time": 12.5,
            "was_cancelled": False,
            "result": [{"type": "ranker", "from_name": "rank", "to_name": "list", "value": {"ranker": value}}],
        }
        for n, value in enumerate(ranked)
    ]
    data = {"prompt": "hello?", "items": ENTRIES, "source": "web"}
    return {"id": 5, "data": data, "annotations": annotations, "predictions": [{"result": []}], **more}


def test_a_label_studio_order_is_a_ranking_of_each_person(tmp_path: Path) -> None:
    item = one(tmp_path, task({"rank": ["b", "3", "a"]}, {"rank": ["a", "b", 3]}))
    assert isinstance(item, Item) and sniff(tmp_path / "file.jsonl") == "label-studio"
    assert (tiers(item), tiers(item, 1)) == ([["two"], ["three"], ["one"]], [["one"], ["two"], ["three"]])
    first, second = item.rankings
    assert (first.annotator, second.annotator, first.criterion) == ("10", "11", "rank")
    assert (first.duration_s, first.created_at) == (12.5, "2024-01-01T00:00:00Z")
    assert first.shown == tuple(c.id for c in item.completions)
    assert item.metadata == {"source": "web"} and item.external_id == "5"
    assert item.completions[0].metadata == {"title": "model A"}
    assert "example.org" not in str(item)


def test_numbered_piles_are_tiers_and_one_pile_is_a_partial_order(tmp_path: Path) -> None:
    item = one(tmp_path, task({"2 fine": ["a", "b"], "1 best": [3], "10 bad": [], "_": []}))
    assert tiers(item) == [["three"], ["one", "two"]]
    item = one(tmp_path, task({"good": ["b", "a"], "_": ["3"]}))
    assert tiers(item) == [["two"], ["one"]]
    assert tiers(one(tmp_path, task({"2": ["a"], "10": ["b"], "_": ["3"]}))) == [["one"], ["two"]]
    refused(tmp_path, task({"relevant": ["a"], "biased": ["b"], "_": []}), "have no order")


def test_an_order_written_as_a_plain_list_is_read_too(tmp_path: Path) -> None:
    assert tiers(one(tmp_path, task(["b", "a", "3"]))) == [["two"], ["one"], ["three"]]


def test_cancelled_annotations_and_an_untouched_list_say_nothing(tmp_path: Path) -> None:
    record = task({"rank": ["a", "b", "3"]}, {"_": ["a", "b", "3"]})
    record["annotations"][0]["was_cancelled"] = True
    assert one(tmp_path, record).rankings == ()


def test_what_stands_beside_a_ranking_is_kept(tmp_path: Path) -> None:
    record = task({"rank": ["a", "b", "3"]})
    record["annotations"][0]["ground_truth"] = True
    record["annotations"][0]["result"] += [
        {"type": "textarea", "from_name": "why", "value": {"text": ["because", "so"]}},
        {"type": "choices", "from_name": "tone", "value": {"choices": ["rude"]}},
    ]
    (said,) = one(tmp_path, record).rankings
    assert said.comment == "because\nso"
    assert said.metadata == {"ground_truth": True, "answers": {"tone": {"choices": ["rude"]}}}


def pairwise(data: dict[str, str], to_name: object, *selected: str) -> dict[str, Any]:
    return {
        "id": 1,
        "data": data,
        "annotations": [
            {
                "completed_by": 4,
                "result": [{"type": "pairwise", "from_name": "pw", "to_name": to_name, "value": {"selected": side}}],
            }
            for side in selected
        ],
    }


@pytest.mark.parametrize(
    ("names", "to_name"),
    [(("answer1", "answer2"), ["answer1", "answer2"]), (("answer1", "answer2"), "t-1,t-2"), (("x_a", "x_b"), None)],
)
def test_a_pairwise_choice_prefers_the_side_selected(tmp_path: Path, names: tuple[str, str], to_name: object) -> None:
    data = {"prompt": "p", names[0]: "one", names[1]: "two"}
    item = one(tmp_path, pairwise(data, to_name, "right", "left"))
    assert (tiers(item), tiers(item, 1)) == ([["two"], ["one"]], [["one"], ["two"]])
    assert item.rankings[0].annotator == "4"


def test_what_label_studio_does_not_tell_is_an_error_that_says_so(tmp_path: Path) -> None:
    refused(tmp_path, task({"rank": ["a", "x"]}), "no list in the data has all of what is ranked")
    refused(tmp_path, pairwise({"prompt": "p", "left one": "1", "other": "2"}, None, "left"), "which two fields")
    refused(tmp_path, {"data": {"text": "t"}, "annotations": []}, "nothing here can be ranked")


@pytest.mark.parametrize("record", [*ARGILLA.values(), task({"rank": ["b", "3", "a"]})])
def test_rankings_of_other_tools_survive_our_own_export(tmp_path: Path, record: dict[str, Any]) -> None:
    item = one(tmp_path, record)
    for name in ("again.jsonl", "again.parquet"):
        write_rankings([item], tmp_path / name)
        assert list(read(tmp_path / name)) == [item]


# -- damage ------------------------------------------------------------------------------------------------------------

ODD = st.sampled_from(
    [None, True, 0, -1, 1.5, "", " ", "reply-1", "a", [], {}, [None], [[]], [{}], {"value": None}, [1]]
)


def places(value: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the way to every part of a record."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [*([path] if path else []), *(way for key, inner in pairs for way in places(inner, (*path, key)))]


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_a_damaged_record_is_an_item_or_a_row_that_says_why(tmp_path_factory: Any, data: st.DataObject) -> None:
    whole = [
        *ARGILLA.items(),
        ("task", task({"rank": ["b", "3", "a"]})),
        ("pair", pairwise({"a1": "x", "a2": "y"}, None)),
    ]
    name, record = data.draw(st.sampled_from(whole))
    record = json.loads(json.dumps(record))
    for _ in range(data.draw(st.integers(1, 3))):
        way = data.draw(st.sampled_from(places(record) or [("id",)]))
        part: Any = record
        for key in way[:-1]:
            part = part[key]
        part[way[-1]] = copy.deepcopy(data.draw(ODD))
    path = tmp_path_factory.getbasetemp() / "damaged.jsonl"
    path.write_text(json.dumps(record) + "\n")
    (found,) = read(path, "label-studio" if name in ("task", "pair") else "argilla")
    assert isinstance(found, Item | RowError)
