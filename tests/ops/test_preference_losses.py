"""Plackett-Luce and Bradley-Terry agree with golden values, brute force, choix, and the slow twin in `labels`."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prefloop.batch import RankingBatch, collate_rankings
from prefloop.labels.ranking import choice_sets, comparisons
from prefloop.ops.preference import bradley_terry, ordered_pairs, plackett_luce
from prefloop.types import Ranking

choix = pytest.importorskip("choix")

THETA = [1.0, 0.5, -0.2, -1.3]


def ranked(*tiers: tuple[int, ...]) -> Ranking:
    return Ranking("i", "w", "quality", tuple(tuple(f"c{k}" for k in tier) for tier in tiers))


def batch_of(k: int, *rankings: Ranking) -> RankingBatch:
    """Return one list of k completions with these rankings."""
    return collate_rankings([[([1, 2], 1)] * k], [[f"c{i}" for i in range(k)]], [rankings])


def pl(scores: list[float] | torch.Tensor, *rankings: Ranking) -> torch.Tensor:
    score = torch.as_tensor(scores, dtype=torch.float64)
    b = batch_of(len(score), *rankings)
    return plackett_luce(score[None], b.choice_mask, b.choice_weight.double(), b.numerator.double())[0]


def bt(scores: list[float] | torch.Tensor, *rankings: Ranking) -> torch.Tensor:
    score = torch.as_tensor(scores, dtype=torch.float64)
    return bradley_terry(score[None], batch_of(len(score), *rankings).wins.double())[0]


def order(*ids: int) -> Ranking:
    return ranked(*[(i,) for i in ids])


def test_plackett_luce_gives_the_golden_log_likelihoods() -> None:
    assert float(pl(THETA, order(0, 1, 2, 3))) == pytest.approx(1.492418431134983, abs=1e-12)
    assert float(pl(THETA, order(3, 2, 1, 0))) == pytest.approx(5.817119441457123, abs=1e-12)


def test_the_probabilities_of_all_orders_sum_to_one() -> None:
    total = sum(math.exp(-float(pl(THETA, order(*p)))) for p in itertools.permutations(range(4)))
    assert total == pytest.approx(1.0, abs=1e-12)


def test_plackett_luce_equals_choix_on_full_and_partial_rankings() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=6)
    data = [tuple(int(i) for i in rng.permutation(6)[: rng.integers(2, 7)]) for _ in range(60)]
    ours = sum(float(pl(scores, order(*d))) for d in data)
    assert ours == pytest.approx(-choix.log_likelihood_rankings(data, scores), abs=1e-9)


def test_the_probability_that_one_comes_before_another_does_not_depend_on_the_rest() -> None:
    """This is Luce's choice axiom, by brute force over all 24 orders."""
    before = sum(
        math.exp(-float(pl(THETA, order(*p)))) for p in itertools.permutations(range(4)) if p.index(0) < p.index(2)
    )
    assert before == pytest.approx(1 / (1 + math.exp(-1.2)), abs=1e-12)
    assert before == pytest.approx(0.76852, abs=1e-5)


def test_sorting_by_scores_with_gumbel_noise_draws_from_plackett_luce() -> None:
    rng = np.random.default_rng(3)
    drawn = np.argsort(-(np.array(THETA) + rng.gumbel(size=(40_000, 4))), axis=1)
    found = {p: 0 for p in itertools.permutations(range(4))}
    for row in map(tuple, drawn.tolist()):
        found[row] += 1
    chi2 = sum((n - (want := 40_000 * math.exp(-float(pl(THETA, order(*p)))))) ** 2 / want for p, n in found.items())
    assert chi2 < 55  # With 23 degrees of freedom this is p > 0.0002.


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_loss_equals_its_slow_twin_for_any_tiers(data: st.DataObject) -> None:
    k = data.draw(st.integers(2, 5))
    scores = data.draw(st.lists(st.floats(-5, 5), min_size=k, max_size=k))
    places = data.draw(st.lists(st.integers(0, 3), min_size=k, max_size=k))  # Place 3 means left unranked.
    tiers = tuple(tuple(i for i in range(k) if places[i] == t) for t in range(3))
    ranking = ranked(*[t for t in tiers if t])
    slow = choice_sets(ranking.tiers, [f"c{i}" for i in range(k)]).nll(np.array(scores))
    assert float(pl(scores, ranking)) == pytest.approx(slow, abs=1e-5)  # The batch holds float32 weights.


def test_a_tie_is_the_mean_over_the_orders_it_leaves_open() -> None:
    orders = [order(0, *p, 3) for p in itertools.permutations([1, 2])]
    mean = sum(float(pl(THETA, o)) for o in orders) / 2
    assert float(pl(THETA, ranked((0,), (1, 2), (3,)))) == pytest.approx(mean, abs=1e-6)


@given(st.floats(-8, 8), st.floats(-8, 8))
def test_plackett_luce_of_two_is_bradley_terry(a: float, b: float) -> None:
    assert float(pl([a, b], order(0, 1))) == pytest.approx(float(bt([a, b], order(0, 1))), abs=1e-12)
    assert float(pl([a, b], ranked((0, 1)))) == pytest.approx(float(bt([a, b], ranked((0, 1)))), abs=1e-12)


def test_mean_pair_loss_and_list_likelihood_are_two_different_objectives() -> None:
    assert float(bt(THETA, order(0, 1, 2, 3))) == pytest.approx(0.27940065, abs=1e-7)
    assert float(pl(THETA, order(0, 1, 2, 3))) / 3 == pytest.approx(0.49747277, abs=1e-7)


def test_bradley_terry_recovers_the_strengths_of_thirty_pairs() -> None:
    """0 beats 1 in 7 of 10, 1 beats 2 in 6 of 10, 0 beats 2 in 8 of 10."""
    wins = torch.zeros(1, 3, 3, dtype=torch.float64)
    for i, j, n in [(0, 1, 7), (1, 0, 3), (1, 2, 6), (2, 1, 4), (0, 2, 8), (2, 0, 2)]:
        wins[0, i, j] = n
    score = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS(
        [score], max_iter=200, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        solver.zero_grad()
        loss = bradley_terry(score, wins).sum()
        loss.backward()
        return loss

    solver.step(closure)
    found = (score - score.mean()).detach()[0].tolist()
    assert found == pytest.approx([0.74056994, -0.14910226, -0.59146768], abs=1e-6)


def test_a_tie_at_equal_scores_has_no_gradient_and_pulls_unequal_scores_together() -> None:
    """A tie counts half in both directions: cDPO with epsilon 1/2."""
    for gap, sign in [(0.0, 0.0), (2.0, 1.0), (-2.0, -1.0)]:
        score = torch.tensor([gap, 0.0], dtype=torch.float64, requires_grad=True)
        bt(score, ranked((0, 1))).backward()
        assert score.grad is not None
        assert torch.sign(score.grad[0]) == sign


def test_a_batch_holds_each_weighted_ranking_of_lists_of_any_length_once() -> None:
    """The slow twins in `labels` have random tiers; equal orders of other completions come again and again."""
    rng = np.random.default_rng(0)
    ids, rankings, weights = [], [], []
    for n in range(40):
        names = [f"{n}:{k}" for k in rng.permutation(int(rng.integers(2, 6)))]
        ids.append(names)
        rankings.append([_tiers(rng, names) for _ in range(int(rng.integers(0, 5)))])
        weights.append([float(w) for w in rng.random(len(rankings[-1]))])
    batch = collate_rankings([[([1, 2], 1)] * len(names) for names in ids], ids, rankings, weights)
    score = torch.from_numpy(rng.normal(size=batch.present.shape))
    fast = plackett_luce(score, batch.choice_mask, batch.choice_weight.double(), batch.numerator.double())
    for r, names in enumerate(ids):
        mine, wins, nll = score[r, : len(names)].numpy(), np.zeros(batch.wins.shape[1:]), 0.0
        for ranking, weight in zip(rankings[r], weights[r], strict=True):
            nll += weight * choice_sets(ranking.tiers, names).nll(mine)
            for pair in comparisons(ranking):
                a, b = names.index(pair.better), names.index(pair.worse)
                wins[a, b] += weight * pair.weight * pair.p
                wins[b, a] += weight * pair.weight * (1 - pair.p)
        assert float(fast[r]) == pytest.approx(nll, abs=1e-5)
        assert batch.wins[r].numpy() == pytest.approx(wins, abs=1e-6)
        assert float(batch.weight[r]) == pytest.approx(sum(weights[r]), abs=1e-6)


def _tiers(rng: np.random.Generator, names: list[str]) -> Ranking:
    some = list(rng.permutation(names))[: int(rng.integers(2, len(names) + 1))]
    cuts = sorted(rng.choice(np.arange(1, len(some)), size=int(rng.integers(0, len(some))), replace=False).tolist())
    bounds = [0, *cuts, len(some)]
    tiers = (tuple(map(str, some[a:b])) for a, b in itertools.pairwise(bounds))
    return Ranking("i", "w", "quality", tuple(tiers))


def test_padded_choices_and_absent_completions_are_never_read() -> None:
    short = collate_rankings(
        [[([1, 2], 1)] * 2, [([1, 2], 1)] * 4],
        [["c0", "c1"], ["c0", "c1", "c2", "c3"]],
        [[order(0, 1)], [order(2, 0, 3, 1)]],
    )
    score = torch.tensor([[0.3, -0.2, math.inf, math.nan], [0.1, 0.4, -0.3, 0.9]], dtype=torch.float64)
    score.requires_grad_()
    loss = plackett_luce(score, short.choice_mask, short.choice_weight.double(), short.numerator.double())
    assert float(loss[0].detach()) == pytest.approx(math.log1p(math.exp(-0.5)), abs=1e-12)
    loss.sum().backward()
    assert score.grad is not None and torch.isfinite(score.grad).all()
    assert torch.equal(score.grad[0, 2:], torch.zeros(2, dtype=torch.float64))


def test_a_shift_of_all_scores_changes_nothing_and_the_gradients_sum_to_zero() -> None:
    for f in (pl, bt):
        score = torch.tensor(THETA, dtype=torch.float64, requires_grad=True)
        f(score, ranked((0, 2), (1,), (3,))).backward()
        assert score.grad is not None and abs(float(score.grad.sum())) < 1e-6
        shifted = [s + 100 for s in THETA]
        assert float(f(shifted, order(1, 0, 3))) == pytest.approx(float(f(THETA, order(1, 0, 3))), abs=1e-9)


def test_losses_and_gradients_stay_finite_at_hopeless_scores() -> None:
    for f in (pl, bt):
        score = torch.tensor([-1e4, 1e4, 0.0], dtype=torch.float32, requires_grad=True)
        loss = f(score, order(0, 1, 2))
        loss.backward()
        assert torch.isfinite(loss) and score.grad is not None and torch.isfinite(score.grad).all()


def test_a_pair_of_equal_scores_is_half_right_and_a_tie_of_people_is_no_pair() -> None:
    b = batch_of(3, ranked((0,), (1, 2)))  # There are two strict pairs, 0 over 1 and 0 over 2.
    for scores, right in (
        ([1.0, 0.0, 5.0], 1.0),
        ([0.0, 0.0, 0.0], 1.0),
        ([0.0, 3e-5, 1.0], 0.5),  # Rounding makes such a difference.
        ([1.0, 0.0, 0.0], 2.0),
    ):
        found, pairs = ordered_pairs(torch.tensor([scores]), b.wins)
        assert float(pairs) == 2.0
        assert float(found) == right
