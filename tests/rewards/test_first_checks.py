"""Before the first step a scorer is asked twice: an answer has one reward, wherever it stands in a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from prefloop.rewards.base import Scores
from prefloop.training.first_checks import prompts_apart, reward_checks
from prefloop.types import Completion, Prompt

TEXTS = ["a", "a longer one", "the longest of all answers", "four", "five words are in here", ""]
PROMPTS = [Prompt(f"question {n}") for n in range(len(TEXTS))]
ANSWERS = [Completion(f"c{n}", text) for n, text in enumerate(TEXTS)]


class Function:
    """Scores by a function of all texts of a batch."""

    def __init__(self, score: Callable[[Sequence[str]], list[float]]):
        self.of = score

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Scores:
        return Scores(self.of([c.text for c in completions]))


def asked(score: Callable[[Sequence[str]], list[float]]) -> str:
    tokenization: Any = None  # only a reward model's own template is compared
    (check,) = reward_checks(Function(score), tokenization, PROMPTS, ANSWERS)
    assert check["name"] == "reward order"
    return check["status"]


def test_a_scorer_that_gives_each_answer_its_own_reward_passes() -> None:
    assert asked(lambda texts: [float(len(t)) for t in texts]) == "ok"
    assert asked(lambda texts: [0.0 for _ in texts]) == "ok"


def test_rewards_that_come_back_in_the_order_of_length_are_found() -> None:
    assert asked(lambda texts: sorted(float(len(t)) for t in texts)) == "fail"


@pytest.mark.parametrize(("noise", "status"), [(0.5, "warn"), (1e-3, "ok")])
def test_a_scorer_that_changes_its_mind_is_warned_of_where_it_matters(noise: float, status: str) -> None:
    calls = iter(range(100))

    def score(texts: Sequence[str]) -> list[float]:
        turn = next(calls)
        return [len(t) / 10 + noise * (turn + n % 3) for n, t in enumerate(texts)]

    assert asked(score) == status


def test_one_answer_alone_cannot_be_compared() -> None:
    scorer = Function(lambda texts: [1.0 for _ in texts])
    tokenization: Any = None
    assert reward_checks(scorer, tokenization, PROMPTS[:1], ANSWERS[:1]) == []


def test_prompts_that_a_template_leaves_out_are_found() -> None:
    def status(read: Callable[[int], list[int]]) -> str:
        return prompts_apart([(prompt, read(n)) for n, prompt in enumerate(PROMPTS)])["status"]

    assert status(lambda n: [7, n, 8]) == "ok"
    assert status(lambda n: [7, 8]) == "fail"
    assert status(lambda n: [7, max(1, n)]) == "warn"
    assert prompts_apart([(PROMPTS[0], [7, 8])] * 3)["status"] == "ok"  # One prompt that is there again is not lost.
