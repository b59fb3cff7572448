"""Notes, codes and tables say what is in prompt and answer, and nothing about which answer is the better one."""

from __future__ import annotations

import re
from importlib.resources import as_file, files
from random import Random

import pytest

from prefloop.demo.notes import REQUEST, codes, filed, filed_with_rule, note, notes, rule_codes, tables
from prefloop.demo.reading import read_answer
from prefloop.demo.scenario import ideal, prompts, read_facts
from prefloop.models.load import load_causal
from prefloop.types import Prompt

PROMPT = Prompt(
    "Customer: Elena here, order 711. I got the wrong vacuum 23 days ago. What can you do?\n"
    "Policy: exchange up to 14 days, then store credit only.\nAnswer:"
)


def test_a_note_states_the_case_and_what_was_answered() -> None:
    answer = "Hi Elena, we are sorry that you got the wrong item. We will exchange it. This will work for sure."
    assert note(PROMPT, answer) == (
        "wrong vacuum, 23 of 14, too late, store credit. "
        "problem same, product none, step exchange, policy other, promise yes, thanks none, 20 words."
    )


def test_an_answer_that_says_nothing_is_noted_too() -> None:
    assert note(PROMPT, "").endswith(
        "problem none, product none, step none, policy none, promise no, thanks none, 0 words."
    )


def test_two_steps_are_both_noted() -> None:
    said = note(PROMPT, "Your lamp is late. I will add store credit to your account or you can have an exchange.")
    assert "problem other, product other, step store credit and exchange, policy both" in said


def test_the_ideal_answers_note_shows_every_match() -> None:
    for prompt in prompts(200, 5):
        said = note(prompt, ideal(prompt))
        assert "problem same, product same" in said and "policy same, promise no, thanks one" in said
        assert ("in time" in said) == read_facts(prompt.text).in_time


def test_notes_are_chats_that_end_with_the_request_and_repeat_from_the_seed() -> None:
    made = notes(50, 3)
    assert made == notes(50, 3) and made != notes(50, 4)
    for shown in made:
        case, answer, request = shown.prompt.content
        assert (case.role, answer.role, request.role) == ("user", "assistant", "user")
        assert request.content == REQUEST and shown.text == note(Prompt(case.content), answer.content)


def test_no_note_judges() -> None:
    words = {word for shown in notes(500, 1) for word in re.findall(r"[a-z]+", shown.text)}
    assert not words & {"good", "bad", "better", "best", "right", "quality", "ideal", "polite", "safe", "brief"}


def test_codes_say_the_same_in_letters_in_any_order() -> None:
    answer = "Hi Elena, we are sorry that you got the wrong item. We will exchange it. This will work for sure."
    drawn = {codes(PROMPT, answer, Random(seed)) for seed in range(50)}
    assert {frozenset(c.split()) for c in drawn} == {frozenset("BELNOW")}
    assert len(drawn) > 30, "the order says nothing"
    assert set(codes(PROMPT, "", Random(0)).split()) == set("DHLMOS")


def test_codes_follow_the_end_of_the_answer_at_once() -> None:
    with as_file(files("prefloop.demo") / "model") as folder:
        _, tokenization = load_causal(str(folder))
    for shown in filed(20, 1):
        case, answer = shown.prompt.content
        assert set(shown.text.split()) == set(codes(Prompt(case.content), answer.content, Random(0)).split())
        assert tokenization.encode_prompt(shown.prompt)[-1] == tokenization.end_id


def test_codes_with_the_rule_add_the_limit_and_which_of_the_two_steps_is_offered() -> None:
    answer = "Hi Elena, we are sorry that you got the wrong item. We will exchange it. This will work for sure."
    first = [rule_codes(PROMPT, answer, Random(seed), 1.0).split() for seed in range(20)]
    assert {frozenset(letters[:3]) for letters in first} == {frozenset("Bbc")}
    assert {frozenset(letters[3:]) for letters in first} == {frozenset("ELNOW")}
    assert {frozenset(rule_codes(PROMPT, answer, Random(n), 0.0).split()) for n in range(9)} == {frozenset("BELNOWbc")}


def test_answers_with_codes_of_the_rule_offer_both_steps_often() -> None:
    first = [shown.text.split() for shown in filed_with_rule(400, 2, 1.0)]
    right, wrong = (sum(letter in letters for letters in first) for letter in "AB")
    assert 150 < right < 250 and 100 < wrong < 200


@pytest.mark.parametrize("whole", [False, True])
def test_each_row_of_a_table_follows_the_rule(whole: bool) -> None:
    for shown in tables(60, 4, 3, whole):
        facts = read_facts(shown.prompt.text)
        assert len(rows := shown.text.split("; ")) == 3
        for row in rows:
            number, answer, letters = re.fullmatch(r"(?:(\d+): )?(.*[.]) ([A-Za-f ]+)", row).groups()  # type: ignore[union-attr]
            assert whole or number
            in_time = int(number or facts.n) <= facts.limit
            (offered,) = read_answer(answer).offered
            same = offered == (facts.early if in_time else facts.late)
            place = "c" if offered == facts.early else "d"
            assert set(letters.split()) == {"A" if same else "B", "a" if in_time else "b", place}
