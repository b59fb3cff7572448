"""Batches that break other people's loops: no answer ended, answers all alike, a single one, a single order, a tie."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from toy_batches import VOCAB, learn, lists, noise, raw_batch, ready

from prefloop.algorithms.registry import make, names, options_of
from prefloop.batch import AnchoredBatch, LogprobBatch, ReferencedBatch, collate, collate_rankings
from prefloop.config_align import Rollout
from prefloop.training.rollout import eos_rule
from prefloop.types import Ranking

ONLINE, OFFLINE = names("online"), names("offline")


def signal(name: str, batch: Any, kl: float | None = None) -> float:
    """Return the size of the largest number in the gradient, after it was seen to be finite, metrics included.

    kl: the coefficient, where the algorithm has one
    """
    toy = {"kl": kl, "threshold": 0.0}  # Too few toy rewards reach expert iteration's own threshold.
    algorithm = make(name, {key: toy[key] for key in options_of(make(name)).keys() & toy if toy[key] is not None})
    if "mismatched" in algorithm.needs and not isinstance(batch, AnchoredBatch):
        batch = AnchoredBatch(**vars(batch), reference_point=torch.full((len(batch),), 0.5))
    batch = ready(algorithm, batch)
    if not len(batch):
        return 0.0  # The loop makes no update of such a step.
    gradient, metrics = learn(algorithm, batch)
    assert all(bool(torch.isfinite(g).all()) for g in gradient.values())
    assert all(np.isfinite(value) for value in metrics.values()), metrics
    return max(float(g.abs().max()) for key, g in gradient.items() if key.startswith("policy."))


def compares(name: str) -> bool:
    """Return whether it learns from differences within a prompt's group alone, so that equal rewards teach nothing."""
    return make(name).min_k > 1


@pytest.mark.parametrize("name", ONLINE)
@pytest.mark.parametrize("rule", ["subtract", "replace", "off"])
def test_answers_that_never_end_leave_a_finite_gradient(name: str, rule: Any) -> None:
    batch: LogprobBatch = raw_batch(name)
    never = torch.zeros(len(batch), dtype=torch.bool)
    reward = eos_rule(batch.reward, never, Rollout(missing_eos=rule))
    found = signal(name, dataclasses.replace(batch, reward=reward, ended=never), kl=0.0)
    if rule == "replace" and compares(name):
        assert found < 1e-12, "all answers got the same reward, so none is better than another"
    if rule != "replace":
        assert found > 0.0


@pytest.mark.parametrize("name", ONLINE)
def test_a_group_of_identical_answers_teaches_nothing_and_breaks_nothing(name: str) -> None:
    batch: LogprobBatch = raw_batch(name)
    first = batch.group * 4  # the first row of each row's group
    alike = batch.select(first)
    assert torch.equal(alike.group, batch.group) and torch.equal(alike.ids[0], alike.ids[3])
    assert signal(name, alike, kl=0.05) < 1e3
    if compares(name):
        assert signal(name, alike, kl=0.0) < 1e-12


@pytest.mark.parametrize("name", ONLINE)
def test_one_prompt_alone_is_a_batch(name: str) -> None:
    batch: LogprobBatch = raw_batch(name)
    assert signal(name, batch.select(torch.arange(4))) > 0.0


@pytest.mark.parametrize("name", [name for name in ONLINE if make(name).min_k == 1])
def test_one_answer_a_prompt_is_enough_where_no_group_is_needed(name: str) -> None:
    batch: LogprobBatch = raw_batch(name)
    assert signal(name, dataclasses.replace(batch, group=torch.arange(len(batch)))) > 0.0


def ranked(*orders: tuple[tuple[str, ...], ...]) -> ReferencedBatch:
    """Return a batch of lists, each with one ranking; a list has as many completions as its ranking names."""
    rng = np.random.default_rng(2)
    ids = [[id for tier in order for id in tier] for order in orders]
    encoded = [[(rng.integers(0, VOCAB, int(rng.integers(4, 9))).tolist(), 2) for _ in names] for names in ids]
    batch = collate_rankings(encoded, ids, [[Ranking("i", "w", "quality", order)] for order in orders])
    return ReferencedBatch(**vars(batch), ref_total=torch.where(batch.present, -9.0, torch.nan))


@pytest.mark.parametrize("name", OFFLINE)
def test_lists_of_one_answer_and_lists_that_tie_break_nothing(name: str) -> None:
    signal(name, ranked((("a",),), (("a", "b", "c"),), (("a",), ("b",))))
    signal(name, ranked((("a", "b"),)))


@pytest.mark.parametrize("name", OFFLINE)
def test_a_batch_of_one_list_is_learnt_from(name: str) -> None:
    """The last batch of a pass may be as small as this."""
    assert signal(name, lists().select(torch.arange(1))) > 0.0


@pytest.mark.parametrize("name", OFFLINE)
def test_answers_with_the_same_tokens_break_nothing(name: str) -> None:
    tokens = [3, 5, 7, 2, 1]
    said = [[Ranking("i", "w", "quality", (("a",), ("b",)))]]
    batch = collate_rankings([[(tokens, 2), (tokens, 2)]], [["a", "b"]], said)
    signal(name, ReferencedBatch(**vars(batch), ref_total=torch.full((1, 2), -4.0)))


@pytest.mark.parametrize("name", [*ONLINE, *OFFLINE])
def test_a_very_long_answer_beside_short_ones_leaves_a_finite_gradient(name: str) -> None:
    rng = np.random.default_rng(4)
    if name in OFFLINE:
        encoded = [[(rng.integers(0, VOCAB, n).tolist(), 2) for n in (600, 4)]]
        batch = collate_rankings(encoded, [["a", "b"]], [[Ranking("i", "w", "quality", (("a",), ("b",)))]])
        signal(name, ReferencedBatch(**vars(batch), ref_total=torch.tensor([[-1500.0, -5.0]])))
        return
    rows = collate([rng.integers(0, VOCAB, n).tolist() for n in (600, 4, 5, 6)], [2] * 4)
    old = -2.5 + 0.1 * noise(rows.ids.shape, 1)
    batch = dataclasses.replace(
        raw_batch(name).select(torch.arange(4)),
        **vars(rows),
        sampler_logp=old,
        old_logp=old,
        ref_logp=old - 0.1,
        value=old,
    )
    signal(name, batch)
