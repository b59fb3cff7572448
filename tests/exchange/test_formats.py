"""One small record of each family is read, and says what it should."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prefloop.exchange import RowError, read, sniff
from prefloop.types import Demonstration, Item, Message, Prompt

USER = {"role": "user", "content": "hello?"}
YES = {"role": "assistant", "content": "yes"}
NO = {"role": "assistant", "content": "no"}


def lines(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def one(tmp_path: Path, record: object) -> Any:
    (found,) = read(lines(tmp_path / "file.jsonl", record))
    return found


def tiers(item: Item, ranking: int = 0) -> list[list[str]]:
    texts = {c.id: c.text for c in item.completions}
    return [[texts[i] for i in tier] for tier in item.rankings[ranking].tiers]


PAIRS: list[dict[str, Any]] = [
    {"prompt": "hello?", "chosen": "yes", "rejected": "no"},
    {"prompt": [USER], "chosen": [YES], "rejected": [NO]},
    {"prompt": [USER], "chosen": [USER, YES], "rejected": [USER, NO]},
    {"chosen": [USER, YES], "rejected": [USER, NO]},
    {"prompt": "hello?", "chosen": [USER, YES], "rejected": [USER, NO]},
    {"prompt": "hello?", "chosen": [YES], "rejected": [NO]},
    {"chosen": "hello? yes", "rejected": "hello? no"},
    {"instruction": "hello?", "input": "", "chosen": "yes", "rejected": "no"},
    {
        "conversations": [{"from": "human", "value": "hello?"}],
        "chosen": {"from": "gpt", "value": "yes"},
        "rejected": {"from": "gpt", "value": "no"},
    },
    {"chosen": "\n\nHuman: hello?\n\nAssistant: yes", "rejected": "\n\nHuman: hello?\n\nAssistant: no"},
    {"messages": [USER, YES], "rejected_response": "no"},
]


@pytest.mark.parametrize("record", PAIRS)
def test_a_pair_prefers_chosen_in_every_spelling(tmp_path: Path, record: dict[str, Any]) -> None:
    item = one(tmp_path, record)
    assert [[text.strip() for text in tier] for tier in tiers(item)] == [["yes"], ["no"]]
    assert "hello?" in item.prompt.text
    assert (item.rankings[0].annotator, item.rankings[0].criterion) == ("import", "preference")
    assert [c.local_id for c in item.completions] == ["c0", "c1"]


def test_a_chat_is_the_same_prompt_in_every_spelling(tmp_path: Path) -> None:
    ids = {one(tmp_path, PAIRS[i]).prompt.id for i in (1, 2, 3, 4, 8)}
    assert ids == {Prompt((Message("user", "hello?"),)).id}


def test_equal_scores_and_equal_texts_are_ties(tmp_path: Path) -> None:
    pair = {"prompt": "p", "chosen": "a", "rejected": "b"}
    assert tiers(one(tmp_path, {**pair, "score_chosen": 3, "score_rejected": 3.0})) == [["a", "b"]]
    assert tiers(one(tmp_path, {**pair, "score_chosen": 4, "score_rejected": 3})) == [["a"], ["b"]]
    assert tiers(one(tmp_path, {"prompt": "p", "chosen": "a", "rejected": "a"})) == [["a", "a"]]


def test_margins_scores_and_unknown_fields_are_kept(tmp_path: Path) -> None:
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "margin": 2, "score_chosen": 4, "source": "x", "id": 7}
    item = one(tmp_path, row)
    assert item.metadata == {"margin": 2, "source": "x"}
    assert item.rankings[0].ratings == {f"{item.id}:c0": {"score": 4.0}}
    assert item.external_id == "7"


def test_transcripts_that_part_early_keep_the_later_turns_in_the_answers(tmp_path: Path) -> None:
    start = "\n\nHuman: a\n\nAssistant:"
    record = {"chosen": f"{start} b\n\nHuman: c\n\nAssistant: d", "rejected": f"{start} e"}
    item = one(tmp_path, record)
    assert item.prompt.content == start
    assert tiers(item) == [["b\n\nHuman: c\n\nAssistant: d"], ["e"]]


def test_transcripts_that_end_alike_have_the_last_turn_as_answer(tmp_path: Path) -> None:
    same = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d"
    item = one(tmp_path, {"chosen": same, "rejected": same})
    assert item.prompt.content == same[:-2]
    assert tiers(item) == [["d", "d"]]


def test_chats_that_part_early_keep_every_turn(tmp_path: Path) -> None:
    item = one(tmp_path, {"chosen": [USER, YES, USER, NO], "rejected": [USER, NO]})
    assert item.prompt.content == (Message("user", "hello?"),)
    assert item.completions[0].messages == tuple(Message(m["role"], m["content"]) for m in (YES, USER, NO))
    assert item.completions[1].text == "no"


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "hello?", "completion": "yes", "label": True},
        {"prompt": [USER], "completion": [YES], "label": True},
        {"messages": [USER, YES], "label": True},
        {"conversations": [{"from": "human", "value": "hello?"}, {"from": "gpt", "value": "yes"}], "kto_tag": True},
    ],
)
def test_single_judgements_become_acceptability(tmp_path: Path, record: dict[str, Any]) -> None:
    item = one(tmp_path, record)
    assert tiers(item) == [["yes"]]
    assert item.rankings[0].criterion == "acceptable"
    assert item.rankings[0].unacceptable == ()
    key = "label" if "label" in record else "kto_tag"
    bad = one(tmp_path, {**record, key: False})
    assert bad.rankings[0].unacceptable == (f"{bad.id}:c0",)


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "hello?", "completion": "yes"},
        {"prompt": [USER], "completion": [YES]},
        {"messages": [USER, YES]},
        {"conversations": [{"from": "human", "value": "hello?"}, {"from": "gpt", "value": "yes"}]},
        {"instruction": "hello?", "input": "", "output": "yes"},
    ],
)
def test_a_demonstration_is_the_answer_in_every_spelling(tmp_path: Path, record: dict[str, Any]) -> None:
    found = one(tmp_path, record)
    assert isinstance(found, Demonstration)
    assert found.text == "yes"
    assert found.prompt.content in ("hello?", (Message("user", "hello?"),))
    assert found.metadata == {}


def test_alpaca_input_stands_below_the_instruction_and_history_before_it(tmp_path: Path) -> None:
    record = {"instruction": "add", "input": "1 2", "output": "3", "system": "s", "history": [["a", "b"]]}
    found = one(tmp_path, record)
    turns = (Message("user", "a"), Message("assistant", "b"), Message("user", "add\n1 2"))
    assert found.prompt == Prompt(turns, "s")


def test_equal_demonstrations_of_one_file_are_counted(tmp_path: Path) -> None:
    row = {"prompt": "p", "completion": "c"}
    found = list(read(lines(tmp_path / "d.jsonl", row, row, {"prompt": "q", "completion": "c"}, row)))
    assert [d.ordinal for d in found if isinstance(d, Demonstration)] == [0, 1, 0, 2]
    assert len({d.id for d in found if isinstance(d, Demonstration)}) == 4


def test_prompts_keep_their_columns(tmp_path: Path) -> None:
    found = one(tmp_path, {"prompt": [USER], "data_source": "gsm8k"})
    assert found == Prompt((Message("user", "hello?"),))
    assert found.metadata == {"data_source": "gsm8k"}


def test_equal_ranks_of_open_assistant_tie_and_deleted_replies_go(tmp_path: Path) -> None:
    def reply(text: str, **more: Any) -> dict[str, Any]:
        return {"message_id": text, "text": text, "role": "assistant", "replies": [], **more}

    replies = [reply("b", rank=1), reply("a", rank=0), reply("x", rank=0, deleted=True), reply("c", rank=1), reply("u")]
    root = {"message_id": "m", "text": "hello?", "role": "prompter", "replies": replies}
    item = one(tmp_path, {"message_tree_id": "m", "prompt": root})
    assert tiers(item) == [["a"], ["b", "c"]]
    assert [c.text for c in item.completions] == ["b", "a", "c", "u"]
    assert item.prompt.content == (Message("user", "hello?"),)


def test_one_bad_group_of_replies_costs_only_itself(tmp_path: Path) -> None:
    ranked = [{"text": t, "role": "assistant", "rank": i} for i, t in enumerate(["a", "b"])]
    inner = {"text": "more", "role": "prompter", "replies": [{**ranked[0], "rank": "first"}, ranked[1]]}
    root = {"text": "hello?", "role": "prompter", "replies": [{**ranked[0], "replies": [inner]}, ranked[1]]}
    found = list(read(lines(tmp_path / "t.jsonl", {"message_tree_id": "m", "prompt": root})))
    assert [type(row) for row in found] == [Item, RowError]


def test_ultrafeedback_gives_a_ranking_per_aspect_and_unrated_answers_stay_unranked(tmp_path: Path) -> None:
    def answer(text: str, rating: str, overall: float) -> dict[str, Any]:
        return {
            "model": "m",
            "response": text,
            "annotations": {"honesty": {"Rating": rating, "Rationale": "r"}},
            "overall_score": overall,
        }

    record = {"instruction": "i", "completions": [answer("a", "3", 1), answer("b", "N/A", 1), answer("c", "5", 9)]}
    item = one(tmp_path, record)
    assert [r.criterion for r in item.rankings] == ["honesty", "overall"]
    assert tiers(item) == [["c"], ["a"]]
    assert tiers(item, 1) == [["c"], ["a", "b"]]


def test_helpsteer_rows_with_one_prompt_are_one_list(tmp_path: Path) -> None:
    def row(prompt: str, response: str, score: int) -> dict[str, Any]:
        return {"prompt": prompt, "response": response, "helpfulness": score, "verbosity": 4 - score}

    path = lines(tmp_path / "h.jsonl", row("p", "a", 1), row("p", "b", 4), row("q", "c", 2), row("r", "d", 2))
    assert sniff(path) == "helpsteer"
    item, alone, also_alone = read(path)
    assert isinstance(item, Item)
    assert [r.criterion for r in item.rankings] == ["helpfulness", "verbosity"]
    assert (tiers(item), tiers(item, 1)) == ([["b"], ["a"]], [["a"], ["b"]])
    assert isinstance(alone, RowError) and alone.line == 3
    assert isinstance(also_alone, RowError) and also_alone.line == 4


@pytest.mark.parametrize(("preference", "expected"), [(-2, [["a"], ["b"]]), (0, [["a", "b"]]), (3, [["b"], ["a"]])])
def test_helpsteer3_prefers_the_first_response_below_zero(
    tmp_path: Path, preference: int, expected: list[list[str]]
) -> None:
    record = {"context": [USER], "response1": "a", "response2": "b", "overall_preference": preference}
    assert tiers(one(tmp_path, record)) == expected


def test_lower_ranks_are_better_in_nectar_and_nemo(tmp_path: Path) -> None:
    nectar = {"prompt": "p", "answers": [{"answer": t, "rank": r} for t, r in [("b", 2.0), ("a", 1.0), ("c", 2.0)]]}
    assert tiers(one(tmp_path, nectar)) == [["a"], ["b", "c"]]
    nemo = {"context": [USER], "completions": [{"rank": 1, "completion": [NO]}, {"rank": 0, "completion": [YES]}]}
    assert tiers(one(tmp_path, nemo)) == [["yes"], ["no"]]


def test_the_format_is_that_of_most_records_and_a_bad_start_does_not_hide_it(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    rows = [json.dumps(row) for row in ({"prompt": "only"}, PAIRS[0], PAIRS[0])]
    path.write_text("\n".join(["not json", *rows]))
    assert sniff(path) == "pairs"
    assert [type(row) for row in read(path)] == [RowError, RowError, Item, Item]
