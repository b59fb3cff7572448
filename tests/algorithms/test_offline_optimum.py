"""Every offline method with exact preferences ends where its own formula says, on the bandit of four arms.

People judge with the rewards as logits, and each answer that they may give counts by its probability: only the
optimiser is left to be wrong. The methods without a reference have no optimum in closed form. There the derivative of
the loss at two arms, written by hand, must be zero where the learner ends.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from test_bandit import BETA, OPTIMUM, REWARD, learner_of

from prefloop.algorithms.registry import make
from prefloop.batch import AnchoredBatch, collate_rankings
from prefloop.engine.base import terms_of
from prefloop.types import ACCEPTABLE, Ranking

Judged = tuple[list[int], list[tuple[Any, float]]]  # the arms of a list, and [(tiers of arms, how much they count)]
R = REWARD.tolist()


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def pairs(flipped: float = 0.0, arms: int = 4) -> Iterable[Judged]:
    for i, j in itertools.combinations(range(arms), 2):
        p = sigmoid(R[i] - R[j])
        p = (1 - flipped) * p + flipped * (1 - p)
        yield [i, j], [(((i,), (j,)), p), (((j,), (i,)), 1 - p)]


def pairs_with_ties(model: str) -> Iterable[Judged]:
    """With even odds of a tie at equal rewards nu is 1 (Davidson) and 3 (Rao and Kupper)."""
    for i, j in itertools.combinations(range(4), 2):
        a, b = math.exp(R[i]), math.exp(R[j])
        win, loss = (a / (a + b + 2 * math.sqrt(a * b)), b / (a + b + 2 * math.sqrt(a * b)))
        if model == "rao_kupper":
            win, loss = a / (a + 3 * b), b / (b + 3 * a)
        yield [i, j], [(((i,), (j,)), win), (((j,), (i,)), loss), (((i, j),), 1 - win - loss)]


def whole_orders() -> Iterable[Judged]:
    said = []
    for order in itertools.permutations(range(4)):
        left, chance = list(order), 1.0
        for arm in order:
            chance *= math.exp(R[arm]) / sum(math.exp(R[other]) for other in left)
            left.remove(arm)
        said.append((tuple((arm,) for arm in order), chance))
    yield list(range(4)), said


def learnt(name: str, options: dict[str, Any], judged: Iterable[Judged]) -> list[float]:
    """Return the probabilities of the arms once the method has converged."""
    lists = list(judged)
    names = [[str(arm) for arm in arms] for arms, _ in lists]
    said = [
        [Ranking("i", str(n), "quality", tuple(tuple(map(str, t)) for t in tiers)) for n, (tiers, _) in enumerate(all_)]
        for _, all_ in lists
    ]
    encoded = [[([0, arm], 1) for arm in arms] for arms, _ in lists]
    batch = collate_rankings(encoded, names, said, [[weight for _, weight in all_] for _, all_ in lists])
    uniform = torch.full(batch.present.shape, -math.log(4))
    referenced = AnchoredBatch(**vars(batch), ref_total=uniform, reference_point=torch.zeros(len(batch)))
    learner = learner_of(("policy",), 0.1, 150)
    for _ in range(150):
        learner.step(*terms_of(referenced, make(name, options)))
    policy: Any = learner.models["policy"]
    found: list[float] = policy.probabilities().tolist()
    return found


@pytest.mark.parametrize(
    ("name", "options", "judged"),
    [
        ("dpo", {}, pairs()),
        ("dpo", {}, whole_orders()),
        ("dpo", {"label_smoothing": 0.2, "loss_type": "robust"}, pairs(flipped=0.2)),
        ("dpo_plackett_luce", {}, whole_orders()),
        ("dpo_plackett_luce", {}, pairs()),
        ("dpo_ties", {}, pairs_with_ties("davidson")),
        ("dpo_ties", {"model": "rao_kupper"}, pairs_with_ties("rao_kupper")),
        # The reference is uniform here, so that these two have the same optimum without it.
        ("cpo", {"sft": 0.0}, pairs()),
        ("simpo", {"gamma": 0.0}, pairs()),
    ],
    ids=["dpo", "dpo of whole orders", "robust dpo of flipped labels", "list-wise", "list-wise of pairs", "davidson",
         "rao and kupper", "cpo", "simpo"],
)  # fmt: skip
def test_with_exact_preferences_the_policy_is_the_regularised_optimum(
    name: str, options: dict[str, Any], judged: Iterable[Judged]
) -> None:
    assert learnt(name, {"beta": BETA, **options}, judged) == pytest.approx(OPTIMUM, abs=0.003)


@pytest.mark.parametrize("name", ["dpo", "dpo_ties"])
def test_what_a_method_does_not_expect_of_its_labels_takes_it_elsewhere(name: str) -> None:
    """This is the negative control: flipped labels without `robust`, and ties counted as half a win each."""
    judged = pairs(flipped=0.2) if name == "dpo" else pairs_with_ties("davidson")
    assert abs(learnt("dpo", {"beta": BETA}, judged)[0] - OPTIMUM[0]) > 0.05


def test_ipo_reaches_the_optimum_of_the_chance_to_win_and_not_of_the_reward() -> None:
    """pi ~ pi_ref exp(p / beta), with p the mean chance to beat an arm that is drawn from all four (Azar 2023)."""
    wins = [sum(sigmoid(a - b) for b in R) / 4 for a in R]
    total = sum(math.exp(w / BETA) for w in wins)
    assert learnt("ipo", {"beta": BETA}, pairs()) == pytest.approx([math.exp(w / BETA) / total for w in wins], abs=2e-3)


def root(slope: Callable[[float], float]) -> float:
    low, high = -20.0, 20.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return low


P = sigmoid(R[0] - R[1])  # how often people prefer the first of two arms


@pytest.mark.parametrize(
    ("name", "options", "slope"),
    [  # The slope is by x, the log-odds of the first arm. With two arms, sigmoid(x) is its probability.
        ("simpo", {"beta": 2.0, "gamma": 0.6},
         lambda x: 2 * ((1 - P) * sigmoid(2 * x + 0.6) - P * sigmoid(0.6 - 2 * x))),
        ("cpo", {"beta": 0.5, "sft": 0.7}, lambda x: 0.5 * (sigmoid(0.5 * x) - P) + 0.7 * (sigmoid(x) - P)),
        # The odds of one arm are one over those of the other, so that their log ratio is 2 x.
        ("orpo", {"beta": 0.5}, lambda x: 0.5 * 2 * (sigmoid(2 * x) - P) + (sigmoid(x) - P)),
    ],
    ids=["simpo", "cpo", "orpo"],
)  # fmt: skip
def test_methods_without_a_reference_end_where_the_slope_of_their_loss_is_zero(
    name: str, options: dict[str, Any], slope: Callable[[float], float]
) -> None:
    a, b, *_ = learnt(name, options, pairs(arms=2))
    assert a / (a + b) == pytest.approx(sigmoid(root(slope)), abs=2e-3)


def learnt_from_labels(good: dict[int, float]) -> list[float]:
    """Return the probabilities of the arms after KTO. good: {arm: the share of people who call it good}."""
    lists = list(good.items())
    said = [
        [
            Ranking("i", "yes", ACCEPTABLE, ((str(arm),),)),
            Ranking("i", "no", ACCEPTABLE, ((str(arm),),), unacceptable=(str(arm),)),
        ]
        for arm, _ in lists
    ]
    shares = [[share, 1 - share] for _, share in lists]
    batch = collate_rankings([[([0, arm], 1)] for arm, _ in lists], [[str(arm)] for arm, _ in lists], said, shares)
    uniform = torch.full(batch.present.shape, -math.log(4))
    anchored = AnchoredBatch(**vars(batch), ref_total=uniform, reference_point=torch.full((len(batch),), 0.2))
    learner = learner_of(("policy",), 0.1, 150)
    for _ in range(150):
        learner.step(*terms_of(anchored, make("kto", {"beta": BETA})))
    policy: Any = learner.models["policy"]
    found: list[float] = policy.probabilities().tolist()
    return found


def test_kto_ends_where_the_slope_of_its_loss_is_zero_and_goes_on_where_an_answer_is_mostly_bad() -> None:
    """It weighs how many call an answer good over half, and has an optimum inside only where that is most people."""

    def slope(x: float) -> float:  # by the log-odds of arm 0 against arm 1; the other two arms vanish
        total = 0.0
        for share, p, sign in ((0.8, sigmoid(x), 1.0), (0.6, sigmoid(-x), -1.0)):
            value = sigmoid(BETA * (math.log(p) + math.log(4) - 0.2))
            total += sign * (1 - p) * BETA * value * (1 - value) * (1 - 2 * share)
        return total

    a, b, *rest = learnt_from_labels({0: 0.8, 1: 0.6})
    assert max(rest) < 0.01 and a / (a + b) == pytest.approx(sigmoid(root(slope)), abs=0.01)
    assert learnt_from_labels({0: 0.8, 1: 0.4})[0] > 0.9


def test_sft_on_the_best_reaches_the_share_in_which_each_answer_is_put_first() -> None:
    first = [math.exp(r) / sum(math.exp(other) for other in R) for r in R]
    assert learnt("best_sft", {}, whole_orders()) == pytest.approx(first, abs=2e-3)
