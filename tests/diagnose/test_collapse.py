"""A collapse is seen, each kind by itself; a healthy policy, a closed task, chance and a terse answer are none."""

from __future__ import annotations

import random

import pytest

from prefloop.diagnose.collapse import collapsed, commonest, distinct, repetition, signs, text_figures, words

HEALTHY = {"sequences": 64.0, "distinct_2": 0.83, "repetition": 0.02, "commonest": 0.02, "ended": 0.97, "entropy": 1.5,
           "kl": 0.0, "length": 30.0}  # fmt: skip
# These were measured: the demo's reference and its policy after two rounds (docs/log.md).
DEMO = (
    {"distinct_2": 0.272, "entropy": 0.357, "length": 33.7, "ended": 1.0},
    {"distinct_2": 0.240, "entropy": 0.297, "length": 23.4, "ended": 1.0, "kl": 9.9},
)
# Each sign has a reason to look, and what is collapsed.
KINDS: dict[str, tuple[dict[str, float], dict[str, float]]] = {
    "distinct_2": ({"distinct_2": 0.55}, {"distinct_2": 0.02}),
    "repetition": ({"repetition": 0.25}, {"repetition": 0.9}),
    "commonest": ({"commonest": 0.4}, {"commonest": 0.98}),
    "ended": ({"ended": 0.7}, {"ended": 0.02}),
    "entropy": ({"entropy": 0.06}, {"entropy": 0.002}),
    "kl": ({"kl": 40.0}, {"kl": 81.0}),
}


def verdicts(after: dict[str, float], before: dict[str, float] | None = None) -> dict[str, str]:
    found = signs({**HEALTHY, **after}, {**HEALTHY, **(before or {})})
    return {sign.name: sign.verdict for sign in found if sign.verdict != "held"}


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_of_collapse_is_seen_by_itself_and_half_way_is_a_reason_to_look(name: str) -> None:
    look, gone = KINDS[name]
    assert verdicts(look) == {name: "look"}
    assert verdicts(gone) == {name: "collapsed"}
    assert verdicts({}) == {}


@pytest.mark.parametrize("name", [name for name in KINDS if name != "kl"])
def test_what_the_reference_does_as_well_is_no_collapse(name: str) -> None:
    """A closed task has few words, a small model repeats itself and does not end."""
    gone = KINDS[name][1]
    assert verdicts(gone, before=gone) == {}


@pytest.mark.parametrize(
    ("after", "before"),
    [
        (DEMO[1], DEMO[0]),
        ({"entropy": 0.75, "kl": 20.0}, {}),
        ({"kl": 70.0, "length": 500.0}, {"length": 480.0}),
        ({"kl": 22.0, "length": 30.0}, {}),
        ({"kl": 8.0, "length": 2.0}, {"length": 2.0}),
        ({"ended": 0.25, "sequences": 4.0}, {"ended": 0.75, "sequences": 4.0}),
        ({"commonest": 0.5, "sequences": 2.0}, {"commonest": 0.5, "sequences": 2.0}),
        ({"commonest": 0.9}, {"commonest": 0.6}),
        ({"distinct_2": 0.0, "length": 1.0}, {"distinct_2": 0.0, "length": 1.0}),
    ],
    ids=["demo", "surer", "long answers", "at the budget", "brief answers", "few answers", "two prompts", "yes or no",
         "one word"],
)  # fmt: skip
def test_a_healthy_policy_has_not_collapsed(after: dict[str, float], before: dict[str, float]) -> None:
    assert "collapsed" not in verdicts(after, before).values()


def test_the_texts_of_a_real_collapse_are_seen_and_those_of_its_start_are_not() -> None:
    rng = random.Random(0)
    vocabulary = [f"w{n}" for n in range(400)]
    before = [" ".join(rng.choices(vocabulary, k=rng.randint(8, 30))) for _ in range(48)]
    after = ["and flower " * 30 for _ in range(48)]
    figures = [text_figures([texts]) | {"sequences": 48.0} for texts in (after, before)]
    found = signs(*figures)
    assert {s.name for s in found if s.verdict == "collapsed"} == {"distinct_2", "repetition", "commonest"}
    assert "different word pairs are 0% of all, the reference's" in collapsed(found)[0]
    assert collapsed(signs(figures[1], figures[1])) == []
    empty = text_figures([[""] * 48]) | {"sequences": 48.0}
    assert [s.name for s in signs(empty, figures[1]) if s.verdict == "collapsed"] == ["commonest"]


@pytest.mark.parametrize("unit", ["!", "ha", "的", "be ", "\u00e9", "[x]"])
def test_one_token_said_again_and_again_is_seen_whatever_it_is_and_however_long(unit: str) -> None:
    """This holds also where it has no spaces, so that an answer would be a single word, and each of another length."""
    rng = random.Random(1)
    vocabulary = [f"w{n}" for n in range(400)]
    before = text_figures([[" ".join(rng.choices(vocabulary, k=20)) for _ in range(48)]]) | {"sequences": 48.0}
    after = text_figures([[unit * rng.randint(20, 60) for _ in range(48)]]) | {"sequences": 48.0}
    assert {"distinct_2", "repetition"} <= {s.name for s in signs(after, before) if s.verdict == "collapsed"}


def test_a_policy_that_is_sure_of_each_answer_does_not_look_like_one_that_says_the_same_to_all() -> None:
    answers = [f"the {n} is in place {n} of row {n}" for n in range(16)]
    sure, same = text_figures([answers] * 8), text_figures([[answers[0]] * 16] * 8)
    assert sure["commonest"] == 1 / 16 and sure["distinct_2"] == text_figures([answers])["distinct_2"] > 0.5
    assert same["commonest"] == 1.0 and same["distinct_2"] < 0.1


def test_two_comparisons_name_each_sign_once() -> None:
    found = signs({**HEALTHY, "distinct_2": 0.02}, HEALTHY)
    assert len(collapsed(found, found)) == 1 and collapsed() == []


def test_distinct_counts_different_runs_of_words() -> None:
    assert distinct(["a b a b", "a b"], 1) == pytest.approx(2 / 6)
    assert distinct(["a b a b", "A B"], 2) == pytest.approx(2 / 4)
    assert distinct(["a"], 2) == 0.0
    assert repetition(["a b a b", "a b c"]) == pytest.approx((1 / 3 + 0) / 2) and repetition([]) == 0.0
    assert commonest(["Yes. ", "yes.", "no."]) == pytest.approx(2 / 3) and commonest([]) == 0.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("The  cat", ["the", "cat"]),
        ("她去了公园 today", ["她", "去", "了", "公", "园", "today"]),
        ("ขอบ", ["ข", "อ", "บ"]),
        ("", []),
        ("so hahahahahahahaha!!", ["so", *["ha"] * 8, "!!"]),
        ("a ---- b 1000000 loooool", ["a", "----", "b", "1000000", "loooool"]),
    ],
)
def test_scripts_without_spaces_count_by_characters(text: str, said: list[str]) -> None:
    assert words(text) == said


def test_answers_that_shrink_to_single_words_are_a_reason_to_look_and_empty_ones_a_collapse() -> None:
    before = text_figures([[f"the {n} is in place {n}" for n in range(48)]]) | {"sequences": 48.0}
    words_alone = signs(text_figures([[f"w{n}" for n in range(48)]]) | {"sequences": 48.0}, before)
    assert {s.said: s.verdict for s in words_alone if s.verdict != "held"} == {"no answer has two words": "look"}
    empty = signs(text_figures([[""] * 48]) | {"sequences": 48.0}, before)
    assert collapsed(empty) == ["100% of the answers are one and the same text, of the reference's 2%"]


def test_a_low_temperature_of_sampling_is_no_distance() -> None:
    """Measured: the demo's policy sampled at 0.1 is 52 nats from its reference at 0.1, and 7.9 at 1 (docs/log.md)."""
    cool = {"kl": 52.0, "length": 23.0}
    assert verdicts(cool) == {"kl": "collapsed"} and verdicts({**cool, "kl_at_1": 7.9}) == {}


def test_figures_that_are_missing_give_no_sign() -> None:
    assert signs({}, {}) == [] and signs({"kl": 60.0}, {}) == []
    assert [s.name for s in signs({"entropy": 0.001}, {"entropy": 1.0})] == ["entropy"]
