"""Answers with labels, scores and verdicts are read in the words and layouts of the data sets that have them."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prefloop.exchange import RowError, read, sniff
from prefloop.types import Demonstration, Item, Message

ASKED = {"prompt": "hello?"}


def lines(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def one(tmp_path: Path, record: object) -> Any:
    (found,) = read(lines(tmp_path / "file.jsonl", record))
    assert isinstance(found, Item | RowError)
    return found


def tiers(item: Item, ranking: int = 0) -> list[list[str]]:
    texts = {c.id: c.text for c in item.completions}
    return [[texts[i] for i in tier] for tier in item.rankings[ranking].tiers]


@pytest.mark.parametrize("field", ["label", "kto_tag"])
@pytest.mark.parametrize(
    ("good", "bad"),
    [
        (True, False), (1, 0), (1.0, 0.0), (1, -1), ("true", "false"), ("True", "False"), ("1", "0"), ("YES", "No"),
        ("\U0001f44d", "\U0001f44e\U0001f3fd"), ("\u2714\ufe0f", "\u274c"), ("pos", "NEG"), ("Pass", "fail"),
        ("good", "bad"), ("desirable", "undesirable"), ("chosen", "rejected"), ("thumbs up", "thumbs_down"),
    ],
)  # fmt: skip
def test_a_label_is_read_in_every_way_it_is_written(tmp_path: Path, field: str, good: object, bad: object) -> None:
    path = lines(tmp_path / "k", *({**ASKED, "completion": str(y), field: y} for y in (good, bad)))
    first, second = read(path)
    assert isinstance(first, Item) and isinstance(second, Item)
    assert first.rankings[0].unacceptable == () and second.rankings[0].unacceptable == (f"{second.id}:c0",)


@pytest.mark.parametrize("label", [2, 0.5, "maybe", "science", [], {}, [1], "NaN"])
def test_any_other_label_costs_its_row_and_is_never_a_demonstration(tmp_path: Path, label: object) -> None:
    path = lines(tmp_path / "k", {**ASKED, "completion": "x", "label": label}, {**ASKED, "completion": "y", "label": 1})
    error, item = read(path)
    assert isinstance(error, RowError) and "label must say true or false" in error.reason
    assert isinstance(item, Item)


def test_labels_that_contradict_each_other_cost_their_row(tmp_path: Path) -> None:
    assert "contradict" in one(tmp_path, {**ASKED, "completion": "x", "label": 1, "kto_tag": False}).reason


def test_llama_factorys_alpaca_layout_has_its_label_read(tmp_path: Path) -> None:
    item = one(tmp_path, {"instruction": "add", "input": "1 2", "output": "4", "kto_tag": False})
    assert item.prompt.content == "add\n1 2" and item.rankings[0].unacceptable


def test_both_verdicts_on_safety_and_help_are_kept_apart(tmp_path: Path) -> None:
    # fmt: skip
    row = {
        **ASKED,
        "response_0": "a",
        "response_1": "b",
        "better_response_id": 0,
        "safer_response_id": 1,
        "is_response_0_safe": False,
        "is_response_1_safe": True,
        "response_0_severity_level": 2,
    }
    item = one(tmp_path, row)
    assert [r.criterion for r in item.rankings] == ["helpfulness", "harmlessness"]
    assert (tiers(item), tiers(item, 1)) == ([["a"], ["b"]], [["b"], ["a"]])
    assert item.rankings[0].unacceptable == () and item.rankings[1].unacceptable == (f"{item.id}:c0",)
    assert item.metadata == {"response_0_severity_level": 2}
    assert "must be 0 or 1, not -1" in one(tmp_path, {**row, "better_response_id": -1}).reason


@pytest.mark.parametrize(
    ("preference", "expected"),
    [(1, [["a"], ["b"]]), (2.0, [["b"], ["a"]]), (0, [["a", "b"]]), (1.5, [["a", "b"]]), (1.98, [["b"], ["a"]])],
)
def test_alpaca_farms_preference_counts_from_one(tmp_path: Path, preference: float, expected: object) -> None:
    row = {"instruction": "hello?", "input": "", "output_1": "a", "output_2": "b", "preference": preference}
    item = one(tmp_path, {**row, "annotator": "gpt4", "generator_2": "m"})
    assert tiers(item) == expected
    assert item.rankings[0].annotator == "gpt4" and item.completions[1].model == "m"
    assert "between 1 and 2" in one(tmp_path, {**row, "preference": 3}).reason


@pytest.mark.parametrize(("scores", "expected"), [((0, 0), [["a", "b"]]), ((-0.5, 0.5), [["b"], ["a"]])])
def test_webgpts_higher_score_is_better(tmp_path: Path, scores: tuple[float, float], expected: object) -> None:
    row = {"question": {"full_text": "hello?", "dataset": "eli5"}, "answer_0": "a", "answer_1": "b"}
    item = one(tmp_path, {**row, "score_0": scores[0], "score_1": scores[1], "tokens_0": {"prefix": [1]}})
    assert tiers(item) == expected
    assert item.prompt.content == "hello?" and item.metadata["question_fields"] == {"dataset": "eli5"}
    assert one(tmp_path, {**row, "question": "hello?", "score_0": 1, "score_1": 0}).prompt.content == "hello?"


def test_webgpt_and_ultrafeedback_are_read_as_they_are_published(tmp_path: Path) -> None:
    """They come with the fields beside the answers that would look like further answers and labels elsewhere."""
    asked = {"dataset": "eli5", "id": "i", "full_text": "hello?"}
    tokens, quotes = {"prefix": [1], "completion": [2]}, {"title": ["t"], "extract": ["e"]}
    web = {"question": asked, "quotes_0": quotes, "answer_0": "yes", "tokens_0": tokens, "score_0": 1.0}
    web |= {"quotes_1": quotes, "answer_1": "no", "tokens_1": tokens, "score_1": -1.0}
    (found,) = read(lines(tmp_path / "web.jsonl", web))
    assert isinstance(found, Item) and tiers(found) == [["yes"], ["no"]] and found.metadata["tokens_1"] == tokens
    answers = [
        {"response": text, "model": "m", "annotations": {"honesty": rating, "truthfulness": [rating]}, "critique": "c"}
        for text, rating in (("no", {"Rating": "1"}), ("yes", {"Rating": "5"}))
    ]
    ultra = {
        "instruction": "hello?",
        "completions": answers,
        "correct_answers": ["None"],
        "incorrect_answers": ["None"],
    }
    (found,) = read(lines(tmp_path / "ultra.jsonl", ultra))
    assert isinstance(found, Item)
    assert [(r.criterion, tiers(found, i)) for i, r in enumerate(found.rankings)] == [
        (name, [["yes"], ["no"]]) for name in ("honesty", "truthfulness")
    ]


@pytest.mark.parametrize(("strength", "expected"), [(-3, [["a"], ["b"]]), (0, [["a", "b"]]), (1, [["b"], ["a"]])])
def test_helpsteer2s_strength_prefers_the_first_below_zero(tmp_path: Path, strength: int, expected: object) -> None:
    row = {**ASKED, "response_1": "a", "response_2": "b", "preference_strength": strength, "preference_statement": "."}
    assert tiers(one(tmp_path, row)) == expected


def test_shps_label_one_is_the_first_answer(tmp_path: Path) -> None:
    row = {"history": "hello?", "human_ref_A": "a", "human_ref_B": "b", "score_A": 2, "score_B": 9, "score_ratio": 4.5}
    assert tiers(one(tmp_path, {**row, "labels": 1})) == [["a"], ["b"]]
    item = one(tmp_path, {**row, "labels": 0})
    assert tiers(item) == [["b"], ["a"]]
    assert item.rankings[0].ratings[f"{item.id}:c1"] == {"score": 9.0}


def test_the_choice_between_summaries_is_their_place(tmp_path: Path) -> None:
    said = [{"text": "a", "policy": "sup"}, {"text": "b", "policy": "ref"}]
    row = {"info": {"id": "1", "post": "hello?", "title": "t"}, "summaries": said, "choice": 1, "worker": "w7"}
    item = one(tmp_path, row)
    assert tiers(item) == [["b"], ["a"]]
    assert (item.rankings[0].annotator, item.completions[1].model) == ("w7", "ref")
    assert item.metadata == {"info": {"id": "1", "title": "t"}}


def test_openais_preferred_output_is_preferred_and_its_tools_are_kept(tmp_path: Path) -> None:
    row = {
        "input": {
            "messages": [{"role": "user", "content": "hello?"}],
            "tools": [{"type": "function", "function": {"name": "f"}}],
        },
        "preferred_output": [{"role": "assistant", "content": "a"}],
        "non_preferred_output": [{"role": "assistant", "content": "b"}],
    }
    item = one(tmp_path, row)
    assert tiers(item) == [["a"], ["b"]]
    assert item.prompt.content == (Message("user", "hello?"),)
    assert item.prompt.tools == ({"type": "function", "function": {"name": "f"}},)


def turns(*said: str) -> list[dict[str, str]]:
    return [{"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(said)]


ARENA = {"model_a": "m", "model_b": "n", "conversation_a": turns("hello?", "a"), "conversation_b": turns("hello?", "b")}


@pytest.mark.parametrize(
    ("winner", "expected"),
    [
        ("model_a", [["a"], ["b"]]), ("model_b", [["b"], ["a"]]), ("tie", [["a", "b"]]),
        ("tie (bothbad)", [["a", "b"]]), ("both_bad", [["a", "b"]]),
    ],
)  # fmt: skip
def test_an_arenas_winner_is_preferred_and_both_may_be_bad(tmp_path: Path, winner: str, expected: object) -> None:
    item = one(tmp_path, {**ARENA, "winner": winner, "judge": "user_3", "question_id": 81})
    assert tiers(item) == expected
    assert item.rankings[0].none_acceptable is ("bad" in winner)
    assert (item.rankings[0].annotator, item.external_id) == ("user_3", "81")
    assert [c.model for c in item.completions] == ["m", "n"]
    assert "winner must be" in one(tmp_path, {**ARENA, "winner": "model_c"}).reason


def test_a_judge_of_the_first_turn_did_not_see_the_second(tmp_path: Path) -> None:
    long = {"conversation_a": turns("hello?", "a", "and?", "x"), "conversation_b": turns("hello?", "b", "and?", "y")}
    item = one(tmp_path, {**ARENA, **long, "winner": "model_a", "turn": 1})
    assert tiers(item) == [["a"], ["b"]]


def test_kaggles_arena_has_its_turns_as_text_and_its_winner_in_three_columns(tmp_path: Path) -> None:
    # fmt: skip
    row = {
        "id": 7,
        "model_a": "m",
        "model_b": "n",
        "prompt": '["hello?"]',
        "response_a": '["a"]',
        "response_b": '["b"]',
        "winner_model_a": 0,
        "winner_model_b": 1,
        "winner_tie": 0,
    }
    item = one(tmp_path, row)
    assert tiers(item) == [["b"], ["a"]] and item.prompt.content == (Message("user", "hello?"),)
    assert tiers(one(tmp_path, {**row, "winner_model_b": 0, "winner_tie": 1})) == [["a", "b"]]
    assert "exactly one" in one(tmp_path, {**row, "winner_tie": 1}).reason
    plain = {"prompt": "hello?", "response_a": "a", "response_b": "b", "winner": "B"}
    assert tiers(one(tmp_path, plain)) == [["b"], ["a"]]


@pytest.mark.parametrize(("labels", "bad"), [([True, True], False), ([True, False], True), ([1, 0.4], True)])
def test_one_wrong_step_makes_an_answer_unacceptable_and_every_label_is_kept(
    tmp_path: Path, labels: list[float], bad: bool
) -> None:
    item = one(tmp_path, {"prompt": "2+3?", "completions": ["Add.", "It is 6."], "labels": labels})
    (ranking,) = item.rankings
    assert bool(ranking.unacceptable) is bad and ranking.criterion == "acceptable"
    assert ranking.ratings[f"{item.id}:c0"] == {"step 1": float(labels[0]), "step 2": float(labels[1])}
    assert item.completions[0].text == "Add.\nIt is 6."
    assert item.completions[0].metadata == {"steps": ["Add.", "It is 6."], "labels": labels}
    assert "every step needs" in one(tmp_path, {"prompt": "2+3?", "completions": ["Add."], "labels": []}).reason


def test_rated_answers_are_ranked_wherever_their_rows_stand(tmp_path: Path) -> None:
    rows = [
        {"prompt": p, "response": f"{p}{r}", "rating": r} for p, r in [("p", 1), ("q", 2), ("r", 3), ("p", 5), ("q", 2)]
    ]
    path = lines(tmp_path / "r.jsonl", *rows)
    assert sniff(path) == "rated"
    first, second, alone = read(path)
    assert isinstance(first, Item) and isinstance(second, Item)
    assert (tiers(first), tiers(second)) == ([["p5"], ["p1"]], [["q2", "q2"]])
    assert first.rankings[0].criterion == "rating"
    assert isinstance(alone, RowError) and alone.line == 3
    assert list(read(path)) == [first, second, alone]


@pytest.mark.parametrize(
    "row", [{"prompt": "p", "completion": "c", "score": 0.1}, {"messages": turns("p", "c"), "rating": "4"}]
)
def test_a_lone_rated_answer_is_not_imitated(tmp_path: Path, row: dict[str, Any]) -> None:
    (found,) = read(lines(tmp_path / "r.jsonl", row))
    assert isinstance(found, RowError) and "only one row" in found.reason
    assert not isinstance(found, Demonstration)


def test_scattered_rows_are_brought_together_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "scattered.jsonl"
    prompts, text = 300, "x" * 20_000

    def rows() -> Iterator[str]:
        for score in range(3):
            for n in range(prompts):
                yield json.dumps({"prompt": f"p{n}", "response": f"{score}{text}", "helpfulness": score}) + "\n"

    path.write_text("".join(rows()))
    tracemalloc.start()
    found = sum(len(row.completions) for row in read(path) if isinstance(row, Item))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == 3 * prompts
    assert peak < 3_000_000 < path.stat().st_size // 5


def test_a_prompt_with_more_answers_than_a_record_may_hold_is_one_bad_row(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "response": str(n), "rating": n} for n in range(100)]
    path = lines(
        tmp_path / "many.jsonl", {"prompt": "q", "response": "a", "rating": 1}, *rows, {**rows[0], "prompt": "q"}
    )
    item, error = read(path, max_line_bytes=2000)
    assert isinstance(item, Item) and item.prompt.content == "q"
    assert isinstance(error, RowError) and error.line == 2 and "100 rows of this prompt" in error.reason


@pytest.mark.parametrize(
    "answers",
    [
        {"responses": ["no", "yes", "?"], "scores": [1, 2, 1]},
        {"generations": ["no", "yes", "?"], "ratings": ["1", "4.5", "1"], "generation_models": ["a", "b", "c"]},
        {"completions": [{"text": "no", "score": 0}, {"text": "yes", "score": 1}, {"text": "?", "score": 0}]},
        {"answers": [{"text": t, "pm_score": s, "selected": False} for t, s in (("no", 0), ("yes", 3), ("?", 0))]},
        {"completions": [{"response": t, "overall_score": s} for t, s in (("no", 1), ("yes", 9), ("?", 1))]},
        {"responses": [[{"role": "assistant", "content": t}] for t in ("no", "yes", "?")], "rewards": [-1.0, 0, -1]},
    ],
)  # fmt: skip
def test_several_answers_with_scores_are_ranked_by_them(tmp_path: Path, answers: dict[str, Any]) -> None:
    found = one(tmp_path, {**ASKED, **answers})
    assert isinstance(found, Item) and tiers(found) == [["yes"], ["no", "?"]]


def test_an_answer_without_a_score_is_not_ranked_and_one_score_ranks_nothing(tmp_path: Path) -> None:
    found = one(tmp_path, {**ASKED, "responses": ["no", "yes", "?"], "scores": [1, 2, None]})
    assert isinstance(found, Item) and tiers(found) == [["yes"], ["no"]] and len(found.completions) == 3
    assert isinstance(one(tmp_path, {**ASKED, "responses": ["no", "yes"], "scores": [1, None]}), RowError)
    for score in ("nan", "inf", "1e999"):
        assert isinstance(one(tmp_path, {**ASKED, "responses": ["no", "yes"], "scores": [1, score]}), RowError)


def test_prisms_conversation_goes_on_with_the_chosen_answer(tmp_path: Path) -> None:
    def turn(n: int, asked: str, *answers: tuple[str, int, bool]) -> list[dict[str, Any]]:
        said = [{"turn": n, "role": "model", "content": t, "score": s, "if_chosen": c} for t, s, c in answers]
        return [{"turn": n, "role": "user", "content": asked}, *said]

    history = [
        *turn(0, "hello?", ("no", 90, False), ("yes", 20, True)),
        *turn(1, "and?", ("b", 1, False), ("a", 1, True)),
    ]
    path = lines(tmp_path / "p.jsonl", {"conversation_id": "c", "user_id": "u", "conversation_history": history})
    first, second = read(path)
    assert isinstance(first, Item) and isinstance(second, Item)
    assert tiers(first) == [["yes"], ["no"]] and tiers(first, 1) == [["no"], ["yes"]]
    assert [m.content for m in second.prompt.content if isinstance(m, Message)] == ["hello?", "yes", "and?"]
    assert tiers(second) == [["a"], ["b"]] and tiers(second, 1) == [["b", "a"]]
    assert {r.annotator for r in first.rankings} == {"u"} and first.external_id == "c:1"


def test_prm800ks_alternatives_follow_the_path_that_was_taken(tmp_path: Path) -> None:
    def rated(*steps: tuple[str, int]) -> list[dict[str, Any]]:
        return [{"text": text, "rating": rating, "flagged": False} for text, rating in steps]

    steps = [
        {"completions": rated(("a", 1), ("b", -1)), "human_completion": None, "chosen_completion": 0},
        {"completions": rated(("c", 0)), "human_completion": "d", "chosen_completion": None},
        {"completions": rated(("e", -1)), "human_completion": None, "chosen_completion": None},
    ]
    path = lines(tmp_path / "p.jsonl", {"question": {"problem": "hello?"}, "label": {"steps": steps}})
    found = [(i.completions[0].text, bool(i.rankings[0].unacceptable)) for i in read(path) if isinstance(i, Item)]
    assert found == [("b", True), ("a\nc", True), ("a\nd\ne", True)]


def test_math_shepherds_marks_are_labels(tmp_path: Path) -> None:
    given = {
        "input": "hello? Step 1: a \u043a\u0438\nStep 2: b-c \u043a\u0438",
        "label": "hello? Step 1: a +\nStep 2: b-c -",
    }
    found = one(tmp_path, given)
    assert isinstance(found, Item) and found.completions[0].text == "Step 1: a\nStep 2: b-c"
    assert list(found.rankings[0].ratings.values()) == [{"step 1": 1.0, "step 2": 0.0}]
    assert isinstance(one(tmp_path, {**given, "label": given["label"].replace("a +", "a *")}), RowError)


def test_each_chosen_answer_is_better_than_each_rejected_one(tmp_path: Path) -> None:
    found = one(tmp_path, {**ASKED, "chosen": ["yes", "aye"], "rejected": ["no", "never"], "num_correct": 2})
    assert isinstance(found, Item) and tiers(found) == [["yes", "aye"], ["no", "never"]]


def test_an_arenas_winner_may_be_called_by_its_name(tmp_path: Path) -> None:
    row = {"prompt": "hello?", "response_a": "no", "response_b": "yes", "model_a": "GPT", "model_b": "Claude"}
    assert tiers(one(tmp_path, {**row, "winner": "claude"})) == [["yes"], ["no"]]
    assert isinstance(one(tmp_path, {**row, "model_b": "GPT", "winner": "gpt"}), RowError)
