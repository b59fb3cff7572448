"""The demo scenario's prompts and demonstrations are deterministic, consistent, imperfect and varied."""

from __future__ import annotations

import re
from dataclasses import asdict
from random import Random

import pytest

from prefloop.demo import phrases
from prefloop.demo.phrases import ACTIONS, KINDS
from prefloop.demo.quality import WEIGHTS, Quality, quality
from prefloop.demo.reading import read_answer
from prefloop.demo.scenario import COMPONENTS, compose, demonstration, demonstrations, ideal, prompts, read_facts
from prefloop.errors import DataError
from prefloop.types import Prompt, digest


def test_the_same_seed_makes_the_same_prompts_and_demonstrations() -> None:
    assert prompts(50, 7) == prompts(50, 7)
    assert demonstrations(50, 7) == demonstrations(50, 7)


def test_the_generator_has_not_changed_since_its_numbers_were_published() -> None:
    made = digest(*((d.prompt.text, d.text) for d in demonstrations(100, 0)))
    assert made == "caa5638aa174ff45"  # After a change here, measure docs/demo.md again.


def test_more_prompts_of_a_seed_begin_with_the_fewer() -> None:
    assert prompts(100, 1)[:40] == prompts(40, 1)


def test_prompts_of_two_seeds_hardly_overlap() -> None:
    first, second = ({p.text for p in prompts(3000, seed)} for seed in (1, 2))
    assert len(first) == len(second) == 3000
    assert len(first & second) <= 3


def test_facts_read_from_the_text_are_the_facts_it_was_made_from() -> None:
    for prompt in prompts(3000, 3):
        assert asdict(read_facts(prompt.text)) == dict(prompt.metadata)


def test_the_right_step_follows_from_number_and_limit() -> None:
    for prompt in prompts(3000, 4):
        facts = read_facts(prompt.text)
        assert (facts.early, facts.late) in KINDS[facts.kind].rules
        assert facts.product in KINDS[facts.kind].products
        assert facts.step == (facts.early if facts.n <= facts.limit else facts.late)
        assert facts.limit in KINDS[facts.kind].limits and facts.n in KINDS[facts.kind].numbers


def test_both_sides_of_the_limit_and_all_kinds_are_common() -> None:
    facts = [read_facts(p.text) for p in prompts(4000, 5)]
    assert 0.45 < sum(f.in_time for f in facts) / 4000 < 0.55
    for kind in KINDS:
        assert 0.09 < sum(f.kind == kind for f in facts) / 4000 < 0.16


def test_the_number_alone_does_not_decide_every_case() -> None:
    for kind in KINDS.values():
        low, high = kind.limits
        assert [n for n in kind.numbers if low < n <= high]
        assert [n for n in kind.numbers if n <= low] and [n for n in kind.numbers if n > high]


def test_prompts_and_answers_are_short() -> None:
    for d in demonstrations(3000, 6):
        assert 20 <= len(d.prompt.text.split()) <= 45
        assert 12 <= len(d.text.split()) <= 42


@pytest.fixture(scope="module")
def judged() -> list[Quality]:
    return [quality(d.prompt, d.text) for d in demonstrations(5000, 8)]


def test_every_demonstration_is_imperfect(judged: list[Quality]) -> None:
    assert max(q.score for q in judged) < 0.9


def test_each_component_is_good_in_a_third_to_two_thirds_of_demonstrations(judged: list[Quality]) -> None:
    for part in WEIGHTS:
        assert 0.35 < sum(float(getattr(q, part)) == 1.0 for q in judged) / 5000 < 0.70, part


def test_demonstrations_are_always_readable_and_their_quality_is_spread(judged: list[Quality]) -> None:
    assert min(q.readable for q in judged) == 1.0
    scores = sorted(q.score for q in judged)
    assert 0.4 < sum(scores) / 5000 < 0.6
    assert scores[4750] < 0.84
    assert len({round(s, 3) for s in scores}) > 60


def test_the_ideal_answer_has_the_highest_quality_there_is() -> None:
    for prompt in prompts(1000, 11):
        assert quality(prompt, ideal(prompt)).score == pytest.approx(1.0)


def test_an_answer_is_good_in_exactly_the_components_it_was_composed_with() -> None:
    rng = Random(12)
    for prompt in prompts(1500, 12):
        good = rng.sample(COMPONENTS, rng.randint(0, 5))
        text = compose(read_facts(prompt.text), good, rng)
        judged = quality(prompt, text)
        assert {part for part in WEIGHTS if float(getattr(judged, part)) == 1.0} == set(good), text


def test_demonstrations_of_one_prompt_are_worded_differently() -> None:
    prompt, rng = prompts(1, 13)[0], Random(13)
    assert len({demonstration(prompt, rng) for _ in range(100)}) > 95


def test_every_offer_is_understood_as_the_action_it_offers_and_no_other() -> None:
    for key, action in ACTIONS.items():
        for offer in action.offers:
            assert read_answer(offer).offered == {key}, offer


def test_no_piece_of_an_answer_names_a_problem_by_accident() -> None:
    pieces = [*phrases.FILLERS, *phrases.VAGUE, *phrases.PROMISES, *phrases.GENERIC, *phrases.ABOUT, *phrases.IN_TIME]
    pieces += [*phrases.TOO_LATE, *phrases.THANKS_FIRST, *phrases.THANKS_LAST, *phrases.BEGGING, *phrases.TWO_THANKS]
    pieces += [offer for action in ACTIONS.values() for offer in action.offers]
    for kind in KINDS.values():
        assert not [piece for piece in pieces if re.search(kind.pattern, piece.lower())]


@pytest.mark.parametrize("text", ["", "What is the capital of France?", "Customer: hi\nPolicy: none.\nAnswer:"])
def test_a_foreign_prompt_is_refused_with_a_way_out(text: str) -> None:
    with pytest.raises(DataError, match="scorer"):
        quality(Prompt(text), "Thank you.")
