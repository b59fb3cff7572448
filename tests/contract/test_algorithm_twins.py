"""Each algorithm equals a slow twin, which writes the formulas of its docstring as loops over numbers, metrics
included.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from toy_batches import annotated, lists, outputs, ready, wrap

from prefloop.algorithms.registry import make
from prefloop.batch import collate_rankings
from prefloop.labels.ranking import choice_sets, comparisons
from prefloop.types import Ranking

Row = list[tuple[float, ...]]


def tokens(batch: Any, *columns: torch.Tensor) -> list[Row]:
    """Return the action tokens of each row: one tuple of numbers a token."""
    return [
        [tuple(float(c[n, t]) for c in columns) for t in batch.action[n].nonzero().flatten().tolist()]
        for n in range(len(batch))
    ]


def clipped(ratio: float, advantage: float, clip: float) -> tuple[float, bool]:
    held = min(max(ratio, 1 - clip), 1 + clip)
    return -min(ratio * advantage, held * advantage), held * advantage < ratio * advantage


def measured(loss: Any) -> dict[str, float]:
    return {name: float(total / weight) for name, (total, weight) in loss.metrics.items()}


def mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


# -- credit ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whiten_rewards", [False, True])
@pytest.mark.parametrize("whiten_advantages", [False, True])
def test_ppo_gives_credit_as_its_formulas_say(whiten_rewards: bool, whiten_advantages: bool) -> None:
    options = {"kl": 0.3, "gamma": 0.9, "lam": 0.6}
    batch = annotated()
    credited, logged = make(
        "ppo", options | {"whiten_rewards": whiten_rewards, "whiten_advantages": whiten_advantages}
    ).credit(batch)
    rows = tokens(batch, batch.old_logp, batch.ref_logp, batch.value)
    reward = [[-0.3 * (old - ref) for old, ref, _ in row] for row in rows]
    for n, row in enumerate(reward):
        row[-1] += float(batch.reward[n])
    if whiten_rewards:
        spread = float(np.std([r for row in reward for r in row]))
        flat = mean([r for row in reward for r in row])
        reward = [[(r - flat) / spread + flat for r in row] for row in reward]
    advantage: list[list[float]] = []
    for row, given in zip(rows, reward, strict=True):
        out, carry, following = [], 0.0, 0.0
        for (_, _, value), r in zip(reversed(row), reversed(given), strict=True):
            carry = r + 0.9 * following - value + 0.9 * 0.6 * carry
            following = value
            out.append(carry)
        advantage.append(out[::-1])
    returns = [[a + v for a, (_, _, v) in zip(x, row, strict=True)] for x, row in zip(advantage, rows, strict=True)]
    left = [r - v for x, row in zip(returns, rows, strict=True) for r, (_, _, v) in zip(x, row, strict=True)]
    explained = 1 - np.var(left) / np.var([r for row in returns for r in row])
    if whiten_advantages:
        every = [a for row in advantage for a in row]
        advantage = [[(a - mean(every)) / float(np.std(every)) for a in row] for row in advantage]
    found = tokens(credited, credited.advantage, credited.returns)
    for n in range(len(batch)):
        assert [a for a, _ in found[n]] == pytest.approx(advantage[n], abs=1e-6)
        assert [r for _, r in found[n]] == pytest.approx(returns[n], abs=1e-6)
    assert logged == pytest.approx({"explained_variance": explained, "kl_coefficient": 0.3}, rel=1e-6)


@pytest.mark.parametrize(("name", "whiten"), [("grpo", False), ("rloo", False), ("rloo", True)])
def test_group_methods_give_credit_as_their_formulas_say(name: str, whiten: bool) -> None:
    batch = annotated()
    credited, logged = make(name, {"kl": 0.3} | ({"whiten_advantages": True} if whiten else {})).credit(batch)
    rows = tokens(batch, batch.old_logp, batch.ref_logp)
    reward = [float(batch.reward[n]) - 0.3 * sum(old - ref for old, ref in row) for n, row in enumerate(rows)]
    expected = []
    for n, r in enumerate(reward):
        group = reward[n // 4 * 4 : n // 4 * 4 + 4]
        if name == "grpo":
            expected.append((r - mean(group)) / (float(np.std(group, ddof=1)) + 1e-4))
        else:
            expected.append(r - (sum(group) - r) / 3)
    if whiten:
        expected = [(e - mean(expected)) / float(np.std(expected)) for e in expected]
    for n, row in enumerate(tokens(credited, credited.advantage)):
        assert [a for (a,) in row] == pytest.approx([expected[n]] * len(row), abs=1e-6)
    assert logged == {"constant_groups": 0.0, "kl_coefficient": 0.3}
    assert credited.returns is None


# -- loss ------------------------------------------------------------------------------------------------------------


def test_ppo_loses_as_its_formulas_say() -> None:
    algorithm = make("ppo", {"clip": 0.1, "value_clip": 0.15, "value_coef": 0.3})
    batch = ready(algorithm, annotated())
    logp, value = outputs(algorithm, batch)
    loss = algorithm.loss(wrap(algorithm, [logp, value]), batch)
    policy, values, cuts, value_cuts, drift, ratios, said = [], [], [], [], [], [], []
    for row in tokens(batch, logp, batch.old_logp, batch.advantage, value, batch.value, batch.returns):
        for new, old, advantage, v, v_old, target in row:
            term, cut = clipped(math.exp(new - old), advantage, 0.1)
            near = v_old + min(max(v - v_old, -0.15), 0.15)
            policy.append(term)
            cuts.append(float(cut))
            values.append(0.5 * max((v - target) ** 2, (near - target) ** 2))
            value_cuts.append(float((near - target) ** 2 > (v - target) ** 2))
            drift.append(math.exp(new - old) - 1 - (new - old))
            ratios.append(math.exp(new - old))
            said.append(v)
    assert 0 < sum(cuts) < len(cuts) and 0 < sum(value_cuts) < len(value_cuts)
    assert float(loss.total) == pytest.approx(sum(policy) + 0.3 * sum(values), rel=1e-9)
    assert float(algorithm.weight(batch)) == len(policy)
    assert measured(loss) == pytest.approx(
        {
            "policy_loss": mean(policy),
            "value_loss": mean(values),
            "clip_fraction": mean(cuts),
            "value_clip_fraction": mean(value_cuts),
            "approx_kl": mean(drift),
            "ratio": mean(ratios),
            "value_mean": mean(said),
        },
        rel=1e-6,
    )


IN_LOSS = {
    "k1": lambda new, ref: new - ref,
    "k2": lambda new, ref: (new - ref) ** 2 / 2,
    "k3": lambda new, ref: math.exp(ref - new) - 1 + new - ref,
}


@pytest.mark.parametrize("estimator", ["", "k1", "k2", "k3"])
@pytest.mark.parametrize("unbiased", [True, False])
def test_grpo_loses_as_its_formulas_say(estimator: str, unbiased: bool) -> None:
    options = {"kl_in": "loss", "kl_estimator": estimator} if estimator else {}
    algorithm = make("grpo", {"clip": 0.1, "kl": 0.3, "kl_unbiased": unbiased, **options})
    batch = ready(algorithm, annotated())
    (logp,) = outputs(algorithm, batch)
    loss = algorithm.loss(wrap(algorithm, [logp]), batch)
    total, cuts, drift, ratios = 0.0, [], [], []
    for row in tokens(batch, logp, batch.old_logp, batch.advantage, batch.ref_logp):
        terms = []
        for new, old, advantage, ref in row:
            term, cut = clipped(math.exp(new - old), advantage, 0.1)
            ratio = math.exp(new - old) if unbiased else 1.0
            terms.append(term + (0.3 * ratio * IN_LOSS[estimator](new, ref) if estimator else 0.0))
            cuts.append(float(cut))
            drift.append(math.exp(new - old) - 1 - (new - old))
            ratios.append(math.exp(new - old))
        total += mean(terms)
    assert 0 < sum(cuts) < len(cuts)
    assert float(loss.total) == pytest.approx(total, rel=1e-9)
    assert float(algorithm.weight(batch)) == len(batch)
    expected = {"policy_loss": total / len(batch), "clip_fraction": mean(cuts), "approx_kl": mean(drift)}
    assert measured(loss) == pytest.approx(expected | {"ratio": mean(ratios)}, rel=1e-6)


def test_rloo_loses_as_its_formulas_say() -> None:
    algorithm = make("rloo", {"clip": 0.1})
    batch = ready(algorithm, annotated())
    (logp,) = outputs(algorithm, batch)
    loss = algorithm.loss(wrap(algorithm, [logp]), batch)
    total, cuts, drift, ratios = 0.0, [], [], []
    for row in tokens(batch, logp, batch.old_logp, batch.advantage):
        ratio = math.exp(sum(new - old for new, old, _ in row))
        term, cut = clipped(ratio, row[0][2], 0.1)
        total += term
        cuts.append(float(cut))
        ratios.append(ratio)
        drift += [math.exp(new - old) - 1 - (new - old) for new, old, _ in row]
    assert 0 < sum(cuts) < len(cuts)
    assert float(loss.total) == pytest.approx(total, rel=1e-9)
    assert float(algorithm.weight(batch)) == len(batch)
    expected = {"policy_loss": total / len(batch), "clip_fraction": mean(cuts), "approx_kl": mean(drift)}
    assert measured(loss) == pytest.approx(expected | {"ratio": mean(ratios)}, rel=1e-6)


RANKINGS = {  # People said this about two lists of three: a tie, a partial ranking, two people on one list.
    0: [(("a",), ("b", "c"))],
    1: [(("c",), ("a",)), (("a",), ("b",), ("c",)), (("a", "b", "c"),)],
}


@pytest.mark.parametrize("name", ["bradley_terry", "plackett_luce"])
def test_reward_objectives_lose_one_ranking_at_a_time(name: str) -> None:
    said = {n: [Ranking("i", f"w{j}", "quality", t) for j, t in enumerate(tiers)] for n, tiers in RANKINGS.items()}
    batch = collate_rankings(
        [[([1, 2], 1)] * 3] * 2, [["a", "b", "c"]] * 2, [said[0], said[1]], [[0.5], [1.0, 2.0, 1.0]]
    )
    score = torch.tensor([0.3, -0.4, 1.1, 0.2, 0.9, -0.6], dtype=torch.float64)
    algorithm = make(name)
    loss = algorithm.loss(wrap(algorithm, [score]), batch)
    total = 0.0
    for n, weights in [(0, [0.5]), (1, [1.0, 2.0, 1.0])]:
        scores = dict(zip("abc", score[3 * n : 3 * n + 3].tolist(), strict=True))
        for ranking, weight in zip(said[n], weights, strict=True):
            if name == "plackett_luce":
                total += weight * choice_sets(ranking.tiers, "abc").nll(np.array(list(scores.values())))
            else:
                for pair in comparisons(ranking):
                    gap = scores[pair.better] - scores[pair.worse]
                    both = pair.p * math.log1p(math.exp(-gap)) + (1 - pair.p) * math.log1p(math.exp(gap))
                    total += weight * pair.weight * both
    assert float(loss.total) == pytest.approx(total, rel=1e-6)
    assert float(algorithm.weight(batch)) == 4.5
    assert measured(loss)["loss"] == pytest.approx(total / 4.5, rel=1e-6)


def test_dpo_counts_rankings_and_reports_accuracy_over_strict_pairs() -> None:
    algorithm, batch = make("dpo", {"beta": 0.2}), lists()
    (logp,) = outputs(algorithm, batch)
    loss = algorithm.loss(wrap(algorithm, [logp]), batch)
    implicit = 0.2 * (torch.where(batch.rows().action, logp, 0.0).sum(1).view(batch.present.shape) - batch.ref_total)
    right = strict = 0
    for r in range(len(batch)):
        for i in range(implicit.shape[1]):
            for j in range(implicit.shape[1]):
                if batch.wins[r, i, j] > batch.wins[r, j, i]:
                    strict += 1
                    right += int(implicit[r, i] > implicit[r, j])
    assert measured(loss)["accuracy"] == pytest.approx(right / strict)
    assert measured(loss)["implicit_reward"] == pytest.approx(float(implicit[batch.present].mean()))
    assert float(algorithm.weight(batch)) == float(batch.weight.sum()) > len(batch)
