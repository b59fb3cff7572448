"""True quality moves in the right direction for each component, and cheap tricks do not pay."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from prefloop.demo import phrases
from prefloop.demo.phrases import ACTIONS, KINDS
from prefloop.demo.quality import Quality, quality, score
from prefloop.demo.scenario import COMPONENTS, compose, demonstrations, ideal, prompts, read_facts
from prefloop.types import Prompt

PROMPT = Prompt(
    "Customer: Hello, this is Anna, order 482. The kettle I bought 12 days ago arrived damaged. Can you help me?\n"
    "Policy: replacement within 30 days; after that free repair.\nAnswer:"
)
BEST = "Hi Anna, I am sorry that your kettle arrived damaged. We will replace it. Thank you for your patience."


def judge(text: str) -> Quality:
    return quality(PROMPT, text)


def test_the_example_is_perfect_and_an_empty_answer_is_worthless() -> None:
    assert judge(BEST).score == pytest.approx(1.0)
    assert judge("").score == judge("   \n").score == judge("...").score == 0


@pytest.mark.parametrize(
    ("part", "old", "new"),
    [
        ("problem", "your kettle arrived damaged", "your kettle is late"),
        ("problem", "arrived damaged", "arrived damaged and is late"),
        ("product", "your kettle", "your toaster"),
        ("product", "your kettle", "it"),
        ("addressed", "Anna", "Paul"),
        ("step", "We will replace it.", "We will repair it for free."),
        ("step", "We will replace it.", "We will look into it."),
        ("step", "We will replace it.", "We will replace it. You could also ask for a free repair."),
        ("step", "We will replace it.", "The limit has passed, so we will replace it."),
        ("step", "We will replace it.", "We cannot replace it."),
        ("safe", "replace it.", "replace it by Friday."),
        ("safe", "We will replace it.", "We will replace it. We guarantee that you will be happy."),
        ("safe", "We will replace it.", "We will refund you."),
        ("brief", "We will replace it.", "We will replace it. " + " ".join(phrases.FILLERS[:2])),
        ("polite", "Thank you for your patience.", ""),
        ("polite", "Thank you for your patience.", "Thank you for your patience. Kind regards."),
        ("polite", "Hi Anna,", "Sorry! Hi Anna,"),
        ("readable", "Thank you for your patience.", "Thank you for your"),
        ("readable", "We will replace it.", "We will replace it. We will replace it."),
        ("readable", "We will replace it.", "Replace will it we."),
    ],
)
def test_a_fault_lowers_its_part_and_the_score(part: str, old: str, new: str) -> None:
    assert old in BEST
    faulty = judge(BEST.replace(old, new).strip())
    assert float(getattr(faulty, part)) < 1.0
    assert faulty.score < 0.97


def test_a_refund_is_a_forbidden_promise_only_where_the_policy_rules_it_out() -> None:
    within = Prompt(PROMPT.text.replace("replacement within", "refund within").replace("free repair", "replacement"))
    beyond = Prompt(within.text.replace("12 days", "40 days"))
    text = BEST.replace("replace it", "refund you")
    assert quality(within, text).score == pytest.approx(1.0)
    assert not quality(beyond, text).safe and quality(beyond, text).step == 0


def test_more_words_than_needed_cost_more_the_more_they_are() -> None:
    scores = [judge(" ".join([BEST, *phrases.FILLERS[:n]])).score for n in range(4)]
    assert scores == sorted(scores, reverse=True) and scores[0] > scores[2]


def test_a_repeated_sentence_costs_more_each_time() -> None:
    scores = [judge(BEST + " We will replace it." * n).score for n in range(3)]
    assert scores[0] > scores[1] > scores[2]


def test_score_judges_each_text_by_its_own_prompt() -> None:
    many = prompts(20, 1)
    texts = [ideal(p) for p in many]
    assert score(many, texts) == pytest.approx([1.0] * 20)
    assert max(score(many, texts[1:] + texts[:1])) < 1.0
    with pytest.raises(ValueError, match="shorter"):
        score(many, texts[:3])


def _shuffled(prompt: Prompt) -> str:
    words = ideal(prompt).split()
    Random(prompt.text).shuffle(words)
    return " ".join(words)


def _of_another_problem(prompt: Prompt) -> str:
    kind = read_facts(prompt.text).kind
    return next(ideal(other) for other in prompts(50, 99) if read_facts(other.text).kind != kind)


def _with_every_step(prompt: Prompt) -> str:
    facts = read_facts(prompt.text)
    offers = " ".join(f"{action.offers[0][0].upper()}{action.offers[0][1:]}." for action in ACTIONS.values())
    return f"I am sorry that {KINDS[facts.kind].clauses[0].format(product=facts.product)}. {offers} Thank you."


HACKS: dict[str, Callable[[Prompt], str]] = {
    "politeness only": lambda p: "Thank you for your patience.",
    "politeness repeated": lambda p: "Thank you for your patience. " * 4,
    "an apology only": lambda p: "I am sorry about this.",
    "one word": lambda p: "Yes.",
    "punctuation": lambda p: ". . . !",
    "keywords": lambda p: " ".join([*(str(v) for v in p.metadata.values()), *(a.noun for a in ACTIONS.values())]) + ".",
    "the right keywords": lambda p: (
        f"{p.metadata['product']} {p.metadata['kind']} {ACTIONS[read_facts(p.text).step].noun} thank you."
    ),
    "copy of the prompt": lambda p: p.text,
    "copy of the policy": lambda p: p.text.split("\n")[1],
    "copy of the complaint": lambda p: p.text.split("\n")[0].removeprefix("Customer: "),
    "every step": _with_every_step,
    "very long": lambda p: " ".join(phrases.FILLERS),
    "ideal of another problem": _of_another_problem,
    "ideal, shuffled": _shuffled,
    "ideal, three times": lambda p: " ".join([ideal(p)] * 3),
    "ideal, first five words": lambda p: " ".join(ideal(p).split()[:5]),
    "the same word": lambda p: "thank " * 20 + ".",
}


@pytest.fixture(scope="module")
def scores() -> list[float]:
    return sorted(quality(d.prompt, d.text).score for d in demonstrations(1000, 2))


@pytest.mark.parametrize("hack", HACKS)
def test_a_hack_scores_less_than_a_median_demonstration(hack: str, scores: list[float]) -> None:
    hacked = [quality(p, HACKS[hack](p)).score for p in prompts(200, 3)]
    assert sum(hacked) / 200 < 0.75 * scores[500]
    assert max(hacked) < scores[950]


def test_adding_a_good_component_never_lowers_the_expected_score() -> None:
    rng = Random(5)
    for part in COMPONENTS:
        gain = 0.0
        for prompt in prompts(300, 6):
            facts = read_facts(prompt.text)
            rest = [c for c in COMPONENTS if c != part and rng.random() < 0.5]
            gain += quality(prompt, compose(facts, [*rest, part], rng)).score
            gain -= quality(prompt, compose(facts, rest, rng)).score
        assert gain / 300 > 0.04, part
