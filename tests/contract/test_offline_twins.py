"""Each method that learns from rankings equals a slow twin: its formula as loops over pairs, metrics included."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_algorithm_twins import measured
from toy_batches import lists, outputs, wrap

from prefloop.algorithms.imitation import ImitateBest
from prefloop.algorithms.registry import make
from prefloop.batch import ReferencedBatch, collate_rankings
from prefloop.types import ACCEPTABLE, Ranking

Answer = dict[str, float]  # of one completion: its log-probability, its tokens, and the log-ratio to the reference


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def odds(mean: float) -> float:
    return math.log(math.exp(mean) / (1 - math.exp(mean)))


def davidson(gap: float) -> tuple[float, float]:
    """Return the losses of a win and of a tie, with nu = 3/7, so that equals tie at a rate of 0.3."""
    total = math.exp(gap / 2) + math.exp(-gap / 2) + 2 * 3 / 7
    return math.log(total) - gap / 2, math.log(total) - math.log(2 * 3 / 7)


def rao_kupper(gap: float) -> tuple[float, float]:
    nu = 1.3 / 0.7
    win, loss = (1 / (1 + nu * math.exp(-d)) for d in (gap, -gap))
    return -math.log(win), -math.log(1 - win - loss)


def halved(loss: Callable[[float], float]) -> Callable[[float], tuple[float, float]]:
    """Return the losses of a win and of a tie that is half a win each way."""
    return lambda gap: (loss(gap), (loss(gap) + loss(-gap)) / 2)


# name, options, the reward that gaps are of, and the losses of a win and a tie at a gap
METHODS: list[tuple[str, dict[str, Any], Callable[[Answer], float], Callable[[float], tuple[float, float]]]] = [
    ("dpo", {"beta": 0.2}, lambda a: 0.2 * a["moved"], halved(lambda g: softplus(-g))),
    ("dpo", {"beta": 2.0, "length_normalised": True}, lambda a: 2 * a["moved"] / a["tokens"],
     halved(lambda g: softplus(-g))),
    ("dpo", {"beta": 0.2, "label_smoothing": 0.1}, lambda a: 0.2 * a["moved"],
     halved(lambda g: 0.9 * softplus(-g) + 0.1 * softplus(g))),
    ("dpo", {"beta": 0.2, "label_smoothing": 0.1, "loss_type": "robust"}, lambda a: 0.2 * a["moved"],
     halved(lambda g: (0.9 * softplus(-g) - 0.1 * softplus(g)) / 0.8)),
    ("dpo_ties", {"beta": 0.2, "tie_rate": 0.3}, lambda a: 0.2 * a["moved"], davidson),
    ("dpo_ties", {"beta": 0.2, "tie_rate": 0.3, "model": "rao_kupper"}, lambda a: 0.2 * a["moved"], rao_kupper),
    ("ipo", {"beta": 0.2}, lambda a: 0.2 * a["moved"], halved(lambda g: (g / 0.2 - 2.5) ** 2)),
    ("ipo", {"beta": 0.2, "length_normalised": True}, lambda a: 0.2 * a["moved"] / a["tokens"],
     halved(lambda g: (g / 0.2 - 2.5) ** 2)),
    ("simpo", {"beta": 2.5, "gamma": 0.7}, lambda a: 2.5 * a["logp"] / a["tokens"],
     halved(lambda g: softplus(0.7 - g))),
    ("cpo", {"beta": 0.2}, lambda a: 0.2 * a["logp"], halved(lambda g: softplus(-g))),
    ("orpo", {"beta": 0.3}, lambda a: odds(a["logp"] / a["tokens"]), halved(lambda g: 0.3 * softplus(-g))),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "options", "reward", "losses"), METHODS, ids=lambda v: str(v)[:40] if isinstance(v, str | dict) else None
)
def test_a_pairwise_method_loses_as_its_formula_says(
    name: str, options: dict[str, Any], reward: Any, losses: Any
) -> None:
    algorithm, batch = make(name, options), lists()
    (logp,) = outputs(algorithm, batch)
    loss = algorithm.loss(wrap(algorithm, [logp]), batch)
    total, right, gaps, chosen, rejected = 0.0, [], [], [], []
    for r in range(len(batch)):
        answers = answers_of(batch, logp, r)
        for i, a in enumerate(answers):
            for j, b in enumerate(answers):
                gap = reward(a) - reward(b)
                win, tie = losses(gap)
                total += float(batch.wins[r, i, j] - batch.ties[r, i, j] / 2) * win
                total += float(batch.ties[r, i, j]) / 2 * tie
                if batch.wins[r, i, j] > batch.wins[r, j, i]:
                    gaps.append(gap)
                    right.append(float(gap > 0))
                    chosen.append(a["logp"])
                    rejected.append(b["logp"])
    assert float(loss.total) == pytest.approx(total, rel=1e-6)
    assert float(algorithm.weight(batch)) == float(batch.weight.sum()) > len(batch)
    found = measured(loss)
    assert found["loss"] == pytest.approx(total / float(batch.weight.sum()), rel=1e-6)
    expected = {"accuracy": right, "chosen_logp": chosen, "rejected_logp": rejected}
    if name != "orpo":  # Its implicit reward is the mean log-probability, and its gaps are of odds.
        expected["margin"] = gaps
    for key, values in expected.items():
        assert found[key] == pytest.approx(math.fsum(values) / len(values), rel=1e-6), key


def answers_of(batch: Any, logp: torch.Tensor, r: int) -> list[Answer]:
    """Return what is known of each completion of a list."""
    per_token = logp.view(*batch.action.shape)
    found = []
    for k in batch.present[r].nonzero().flatten().tolist():
        values = [float(x) for x in per_token[r, k][batch.action[r, k]]]
        total = math.fsum(values)
        found.append({"logp": total, "tokens": len(values), "moved": total - float(batch.ref_total[r, k])})
    return found


def test_list_wise_dpo_chooses_the_best_of_all_then_the_next_of_the_rest() -> None:
    said = [Ranking("i", "w", "quality", (("b",), ("c",), ("a",)))]
    batch = collate_rankings([[([1, 2, 3], 1), ([1, 4], 1), ([1, 5], 1)]], [list("abc")], [said], [[2.0]])
    ref = torch.tensor([[-2.0, -1.0, -3.0]])
    batch_ = ReferencedBatch(**vars(batch), ref_total=ref)
    algorithm = make("dpo_plackett_luce", {"beta": 0.5})
    (logp,) = outputs(algorithm, batch_)
    a, b, c = (0.5 * answer["moved"] for answer in answers_of(batch_, logp, 0))
    nll = math.log(math.exp(a) + math.exp(b) + math.exp(c)) - b + math.log(math.exp(a) + math.exp(c)) - c
    loss = algorithm.loss(wrap(algorithm, [logp]), batch_)
    assert float(loss.total) == pytest.approx(2 * nll, rel=1e-6)
    assert measured(loss)["loss"] == pytest.approx(nll, rel=1e-6)


def test_the_best_answers_are_imitated_as_often_as_people_put_them_first() -> None:
    """Nobody is imitated whom all tie with, nor who was marked unacceptable."""
    said = [
        [Ranking("i", "v", "quality", (("a", "b"), ("c",))), Ranking("i", "w", "quality", (("b",), ("a", "c")))],
        [Ranking("j", "v", "quality", (("a", "b", "c"),))],
        [Ranking("k", "v", "quality", (("a",), ("b", "c")), unacceptable=("a",))],
    ]
    rows = [[([1, 2, 3], 1), ([1, 4, 5, 6], 1), ([1, 5], 1)]] * 3
    batch = collate_rankings(rows, [list("abc")] * 3, said, [[1.0, 0.5], [1.0], [1.0]])
    assert batch.best.tolist() == [[1.0, 1.5, 0.0], [0.0] * 3, [0.0] * 3]
    assert batch.worst.tolist() == [[0.5, 0.0, 1.5], [0.0] * 3, [1.0, 1.0, 1.0]]
    objective = ImitateBest()
    assert float(objective.weight(batch)) == 1.0 * 2 + 1.5 * 3
    logp = torch.full((9, batch.ids.shape[-1]), -0.5)
    assert measured(objective.loss(wrap(objective, [logp]), batch)) == {"nll": 0.5}


def test_kto_loses_as_its_formula_says() -> None:
    options = {"beta": 0.3, "desirable_weight": 1.2, "undesirable_weight": 0.7}
    algorithm, batch = make("kto", options), lists()
    (logp,) = outputs(algorithm, batch)
    loss = algorithm.loss(wrap(algorithm, [logp]), batch)
    total, right, good, bad = 0.0, [], [], []
    for r in range(len(batch)):
        for k, a in enumerate(answers_of(batch, logp, r)):
            value = 1 / (1 + math.exp(-0.3 * (a["moved"] - 0.7)))
            best, worst = float(batch.best[r, k]), float(batch.worst[r, k])
            total += 1.2 * best * (1 - value) + 0.7 * worst * value
            right += [value > 0.5] * int(best) + [value < 0.5] * int(worst)
            good += [a["logp"]] * int(best)
            bad += [a["logp"]] * int(worst)
    assert good and bad and float(loss.total) == pytest.approx(total, rel=1e-6)
    assert float(algorithm.weight(batch)) == len(good) + len(bad)
    found = measured(loss)
    del found["implicit_reward"]
    assert found == pytest.approx(
        {
            "loss": total / len(right),
            "accuracy": sum(right) / len(right),
            "reference_point": 0.7,
            "chosen_logp": sum(good) / len(good),
            "rejected_logp": sum(bad) / len(bad),
        },
        rel=1e-6,
    )


@pytest.mark.parametrize("bad", [False, True])
def test_a_label_of_a_single_answer_says_that_it_is_good_or_bad_and_nothing_else(bad: bool) -> None:
    said = Ranking("i", "w", ACCEPTABLE, (("a",),), unacceptable=("a",) if bad else ())
    batch = collate_rankings([[([1, 2], 1)]], [["a"]], [[said]])
    assert (batch.best.item(), batch.worst.item()) == ((0.0, 1.0) if bad else (1.0, 0.0))
    assert not batch.wins.any() and not batch.ties.any() and not batch.choice_weight.any()
