"""Best-of-n has the KL, the scores and the votes that its formulas say."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from prefloop.ops.best_of import chosen_weights, expected_best, kl_bound, kl_estimate, kl_exact, sizes, softmax, vote


@pytest.mark.parametrize(
    ("n", "bound", "three"),
    [
        (2, 0.193147, 0.140638),
        (4, 0.636294, 0.559751),
        (16, 1.835089, 1.469645),
        (64, 3.174508, 1.609428),
        (256, 4.549084, 1.609438),
    ],
)
def test_the_kl_and_its_bound_have_their_golden_values(n: int, bound: float, three: float) -> None:
    assert kl_bound(n) == pytest.approx(bound, abs=5e-7)
    assert kl_exact([0.5, 0.3, 0.2], [0.0, 1.0, 2.0], n) == pytest.approx(three, abs=5e-7)
    assert kl_exact(np.full(1000, 1e-3), np.arange(1000), n) == pytest.approx(bound, abs=3e-3)
    assert three < math.log(5) + 1e-6, "one outcome is left, whose probability is a fifth"


def test_the_exact_kl_is_that_of_the_enumerated_policy() -> None:
    p, r = np.array([0.4, 0.1, 0.3, 0.2]), np.array([1.0, 0.0, 1.0, 2.0])  # Two answers have the same reward.
    for n in (1, 2, 3):
        best = np.zeros(4)
        for drawn in itertools.product(range(4), repeat=n):
            top = [i for i in drawn if r[i] == r[list(drawn)].max()]
            for i in top:
                best[i] += p[list(drawn)].prod() / len(top)
        assert kl_exact(p, r, n) == pytest.approx(float((best * np.log(best / p)).sum()), abs=1e-12)


def test_ties_lower_the_estimate_as_far_as_they_lower_the_kl() -> None:
    rng = np.random.default_rng(0)
    p = np.array([0.5, 0.3, 0.2])
    for n in (2, 4, 16):
        found = [kl_estimate(rng.choice(3, size=64, p=p), n) for _ in range(300)]
        assert np.mean(found) == pytest.approx(kl_exact(p, [0, 1, 2], n), rel=0.04)
    assert kl_estimate([1.0, 1.0, 2.0, 3.0], 2) == pytest.approx(kl_bound(2) - 0.25 * math.log(2) + 0.125)
    assert kl_estimate([3.0, 1.0, 2.0, 0.5], 4) == kl_bound(4), "without ties it is the bound"
    assert kl_estimate([1.0] * 8, 8) == 0.0, "the best of equal answers is any answer"


def test_the_expected_best_is_the_mean_over_all_subsets() -> None:
    rng = np.random.default_rng(1)
    rewards, judged = np.array([0.3, -1.0, 2.0, 0.3, 0.3, 1.1]), rng.normal(size=6)
    for n in range(1, 7):
        maxima, picked = [], []
        for subset in itertools.combinations(range(6), n):
            some = list(subset)
            top = [i for i in some if rewards[i] == rewards[some].max()]
            maxima.append(rewards[some].max())
            picked.append(judged[top].mean())
        assert expected_best(rewards, n) == pytest.approx(np.mean(maxima))
        assert expected_best(rewards, n, judged) == pytest.approx(np.mean(picked))
        assert chosen_weights(rewards, n).sum() == pytest.approx(1)
    with pytest.raises(ValueError, match="there are 6"):
        chosen_weights(rewards, 7)


def test_the_best_of_n_of_a_normal_reward_has_its_golden_mean() -> None:
    drawn = np.random.default_rng(2).normal(size=(3000, 64))
    for n, mean in ((2, 0.5642), (4, 1.0294), (16, 1.7660), (64, 2.3437)):
        found = np.array([expected_best(row, n) for row in drawn])
        assert abs(found.mean() - mean) < 4 * found.std() / len(found) ** 0.5
    assert sizes(64) == [1, 2, 4, 8, 16, 32, 64] and sizes(6) == [1, 2, 4, 6] and sizes(1) == [1]


def test_a_vote_is_weighted_and_those_without_an_answer_do_not_vote() -> None:
    answers = ["7", "8", None, "7", "8", "8"]
    assert vote(answers, [1] * 6) == (1, 0.6), "the first sample of the commonest answer"
    assert vote(answers, [3, 1, 100, 5, 1, 1]) == (3, 8 / 11), "the sample with the most weight of the heaviest answer"
    assert vote(["a", "b"], [1, 1]) == (0, 0.5), "the first answer, where both have as much"
    assert vote(["a", "b", "b"], [0, 0, 0])[0] == 0
    with pytest.raises(ValueError, match="no sample has a final answer"):
        vote([None, None], [1, 1])


def test_votes_go_from_the_majority_to_the_best_answer_with_the_temperature() -> None:
    rewards, answers = [3.0, 1.0, 1.0, 1.0], ["a", "b", "b", "b"]
    assert softmax([2.0, 0.0])[0] == pytest.approx(1 / (1 + math.exp(-2)))
    assert vote(answers, softmax(rewards, 100.0))[0] == 1
    assert vote(answers, softmax(rewards, 0.1))[0] == 0
    assert softmax([1e6, 0.0]).tolist() == [1.0, 0.0]
