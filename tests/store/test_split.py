"""The line between training and held out is a function of text alone, blind to what makes near-duplicates."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefloop.store.split import split_of
from prefloop.types import Message, Prompt

BASE = "What is the capital of France?"


@pytest.mark.parametrize(
    "near",
    [
        "what is the CAPITAL of france?",
        "  What is\tthe capital\n of France?  ",
        "What is the capital of\u00a0France?",  # It has a no-break space.
        "Ｗhat is the capital of France?",  # It has a full-width letter.
        (Message("user", BASE),),
    ],
)
def test_near_duplicates_fall_on_the_same_side(near: str | tuple[Message, ...]) -> None:
    for percent in range(100):
        assert split_of(Prompt(near), percent / 100) == split_of(Prompt(BASE), percent / 100)


def test_the_system_prompt_does_not_move_a_question_across_the_line() -> None:
    for percent in range(100):
        assert split_of(Prompt(BASE, system="Be brief."), percent / 100) == split_of(Prompt(BASE), percent / 100)


@given(st.text(), st.floats(0, 0.99), st.floats(0, 0.99))
def test_a_larger_share_keeps_all_that_was_held_out(text: str, one: float, other: float) -> None:
    small, large = sorted((one, other))
    if split_of(Prompt(text), small) == "heldout":
        assert split_of(Prompt(text), large) == "heldout"


def test_the_share_held_out_is_the_share_asked_for() -> None:
    held = sum(split_of(Prompt(f"question {n}"), 0.1) == "heldout" for n in range(20_000))
    assert abs(held / 20_000 - 0.1) < 0.01  # The bound is 4.7 standard deviations.


def test_the_line_does_not_move_between_versions() -> None:
    sides = "".join("h" if split_of(Prompt(f"question {n}"), 0.3) == "heldout" else "t" for n in range(30))
    assert sides == "htthtttttttttthttthtthhtttthht"


def test_a_stated_side_wins_and_zero_holds_nothing_out() -> None:
    assert split_of(Prompt(BASE, split="heldout"), 0.0) == "heldout"
    assert split_of(Prompt(BASE, split="train"), 0.99) == "train"
    assert all(split_of(Prompt(f"q {n}"), 0.0) == "train" for n in range(1000))


def test_half_a_surrogate_pair_has_a_side_too() -> None:
    assert split_of(Prompt("\ud800"), 0.5) in ("train", "heldout")
