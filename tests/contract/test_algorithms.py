"""One suite over every name in the registry says what every algorithm promises, through the real `engine.Learner`."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch
from torch import Tensor
from toy_batches import assert_same, dirty, learn, noise, outputs, raw_batch, read_mask, ready, wrap

from prefloop.algorithms import base
from prefloop.algorithms.registry import kind_of, make, names, options_of
from prefloop.batch import CreditedBatch, LogprobBatch, RankingBatch, ReferencedBatch
from prefloop.errors import ConfigError
from prefloop.known_algorithms import ALGORITHMS

ALL = names()
# Of the toy rewards, which are N(0, 1), too few reach expert iteration's own threshold.
USUAL: dict[str, dict[str, Any]] = {name: {} for name in ALL} | {"expert_iteration": {"threshold": 0.0}}
# These options switch on code that the defaults leave off.
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *USUAL.items(),
    ("ppo", {"whiten_rewards": True, "gamma": 0.9, "clip": 0.05, "value_clip": 0.05, "kl_target": 6.0}),
    ("grpo", {"kl_in": "loss", "kl": 0.2}),
    ("grpo", {"kl_in": "loss", "kl": 0.2, "kl_unbiased": False}),
    ("rloo", {"kl_in": "loss", "kl": 0.2, "kl_estimator": "k1"}),
    ("ppo", {"kl_in": "loss", "kl": 0.2, "kl_estimator": "k2", "kl_unbiased": False}),
    ("rloo", {"whiten_advantages": True}),
    ("dpo", {"label_smoothing": 0.2, "length_normalised": True, "sft": 0.5}),
    ("dpo", {"label_smoothing": 0.2, "loss_type": "robust"}),
    ("dpo_ties", {"model": "rao_kupper", "tie_rate": 0.3}),
    ("ipo", {"length_normalised": True}),
    ("ppo", {"clip": 0.05, "clip_high": 0.1, "dual_clip": 1.1}),
    ("ppo", {"critic_warmup": 2}),
    ("grpo", {"clip": 0.05, "clip_high": 0.1, "dual_clip": 1.1, "drop_constant": True}),
    ("dr_grpo", {"length": 7, "kl_in": "loss"}),
    ("dapo", {"kl": 0.2, "kl_in": "loss"}),
    ("gspo", {"clip": 0.05, "clip_high": 0.1, "dual_clip": 1.05, "kl_in": "loss"}),
    ("cispo", {"clip_high": 0.05, "kl": 0.2, "kl_in": "loss"}),
    ("reinforce", {"baseline": "batch", "dual_clip": 1.1}),
    ("reinforce", {"baseline": "none", "whiten_advantages": True}),
    ("reinforce_plus_plus_baseline", {"kl_in": "reward"}),
    ("online_dpo", {"labels": "soft"}),
    ("raft", {"keep": 2}),
    ("expert_iteration", {"threshold": 0.5, "per_prompt": 1}),
    *[(name, {"kl": 0.0}) for name in names("online") if "kl" in options_of(make(name))],
]
every_variant = pytest.mark.parametrize(("name", "options"), VARIANTS, ids=lambda v: str(v) if v else "default")


@every_variant
def test_loss_and_gradient_do_not_depend_on_how_the_batch_is_split(name: str, options: dict[str, Any]) -> None:
    algorithm = make(name, options)
    batch = ready(algorithm, raw_batch(name))
    whole, metrics = learn(algorithm, batch)
    assert len(list(batch.split(64))) > 1
    for budget in (64, 150):
        parts, part_metrics = learn(algorithm, batch, budget)
        assert_same(whole, parts, atol=1e-6)  # The learner's weight is a float32.
        assert part_metrics == pytest.approx(metrics, rel=1e-5, abs=1e-6)


@every_variant
def test_padding_is_never_read_and_more_of_it_changes_nothing(name: str, options: dict[str, Any]) -> None:
    algorithm = make(name, options)
    clean, metrics = learn(algorithm, ready(algorithm, raw_batch(name)))
    for extra in (0, 7):
        found, dirty_metrics = learn(algorithm, dirty(ready(algorithm, dirty(raw_batch(name), extra)), extra))
        assert_same(clean, found)
        assert dirty_metrics == pytest.approx(metrics, rel=1e-6)


@every_variant
def test_the_order_of_the_rows_changes_nothing(name: str, options: dict[str, Any]) -> None:
    algorithm, batch = make(name, options), raw_batch(name)
    shuffled = batch.select(torch.from_numpy(np.random.default_rng(0).permutation(len(batch))))
    a, metrics = learn(algorithm, ready(algorithm, batch))
    b, shuffled_metrics = learn(algorithm, ready(algorithm, shuffled))
    assert_same(a, b)
    assert shuffled_metrics == pytest.approx(metrics, rel=1e-6)


@every_variant
def test_the_loss_a_learner_reports_is_the_sum_over_the_weight(name: str, options: dict[str, Any]) -> None:
    """A batch twice over also has the same mean loss and gradient as once."""
    algorithm = make(name, options)
    batch = ready(algorithm, raw_batch(name))
    twice = batch.select(torch.arange(len(batch)).repeat(2))
    once, metrics = learn(algorithm, batch)
    double, double_metrics = learn(algorithm, twice)
    assert_same(once, double, atol=1e-6)
    assert double_metrics == pytest.approx(metrics, rel=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_it_survives_pickling_and_is_a_value(name: str) -> None:
    algorithm = make(name)
    again = pickle.loads(pickle.dumps(algorithm))
    assert again == algorithm and hash(again) == hash(algorithm) and again.trains == algorithm.trains
    for field in dataclasses.fields(algorithm):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(algorithm, field.name, None)


@every_variant
def test_options_come_back_as_they_went_in(name: str, options: dict[str, Any]) -> None:
    algorithm = make(name, options)
    assert make(name, options_of(algorithm)) == algorithm
    assert options_of(algorithm).items() >= options.items()
    assert algorithm.name == name


@pytest.mark.parametrize("name", ALL)
def test_a_misspelt_option_is_an_error_that_suggests_the_right_one(name: str) -> None:
    for option in options_of(make(name)):
        with pytest.raises(ConfigError, match=f'no option "{option}x".*Did you mean "{option}"'):
            make(name, {option + "x": 1})
    with pytest.raises(ConfigError, match=r'no option "trains"'):
        make(name, {"trains": ["policy"]})


@pytest.mark.parametrize("name", ALL)
def test_an_option_of_the_wrong_type_is_an_error_that_names_it(name: str) -> None:
    for option in options_of(make(name)):
        with pytest.raises(ConfigError, match=rf"\[algorithms\.{name}\] {option}: "):
            make(name, {option: "many"})


def test_an_unknown_algorithm_is_an_error_that_suggests_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match='Did you mean "ppo"'):
        make("pppo")
    with pytest.raises(ConfigError, match='no algorithm "sft"'):
        kind_of("sft", "online", "offline")


@every_variant
@pytest.mark.parametrize("size", [30.0, 1e4])
def test_gradients_stay_finite_where_a_policy_has_run_away(name: str, options: dict[str, Any], size: float) -> None:
    algorithm, batch = make(name, options), raw_batch(name)
    if isinstance(batch, LogprobBatch):
        far = torch.where(torch.arange(len(batch))[:, None] % 2 == 0, size, -size)
        batch = ready(algorithm, dataclasses.replace(batch, ref_logp=batch.ref_logp + far))
    if isinstance(batch, CreditedBatch):
        far = torch.where(torch.arange(len(batch))[:, None] % 2 == 0, size, -size)
        batch = dataclasses.replace(batch, old_logp=batch.old_logp - far, value=batch.value + far)
    elif isinstance(batch, ReferencedBatch):
        batch = dataclasses.replace(batch, ref_total=batch.ref_total + size * noise(batch.ref_total.shape, 0))
    out = outputs(algorithm, batch, torch.float32)
    free = kind_of(name) in ("reward", "supervised") or "reference" not in algorithm.needs
    spread = size if free and kind_of(name) != "online" else 0.0
    leaves = [(x.detach() - spread * noise(x.shape, 1).abs().float()).requires_grad_() for x in out]
    loss = algorithm.loss(wrap(algorithm, leaves), batch)
    read = read_mask(algorithm, batch)
    for grad in torch.autograd.grad(loss.total, leaves, allow_unused=True):
        assert grad is None or torch.isfinite(grad[read]).all()


def holds_the_ratio(name: str, options: dict[str, Any]) -> bool:
    """Whether the loss has a ratio in it that is held constant: then its gradient is another by intention.

    tests/contract/test_algorithm_identities.py compares it with its formula.
    """
    said = options_of(make(name, options))
    k2 = said.get("kl") and (said["kl_in"], said["kl_estimator"], said["kl_unbiased"]) == ("loss", "k2", True)
    return name == "cispo" or bool(k2)


@pytest.mark.parametrize(
    ("name", "options"), [v for v in VARIANTS if not holds_the_ratio(*v)], ids=lambda v: str(v) if v else "default"
)
def test_the_gradient_of_the_loss_agrees_with_finite_differences(name: str, options: dict[str, Any]) -> None:
    algorithm = make(name, options)
    raw = raw_batch(name)
    batch = ready(algorithm, raw)
    batch = batch.select(torch.arange(3 if isinstance(batch, RankingBatch) else 5))
    batch = dataclasses.replace(
        batch,
        **{
            f: getattr(batch, f).double()
            for f in ("wins", "ties", "choice_weight", "numerator", "best", "worst")
            if hasattr(batch, f)
        },
    )
    read = read_mask(algorithm, batch)
    leaves = [torch.where(read, x, 0.0).requires_grad_() for x in outputs(algorithm, batch)]

    def total(*tensors: Tensor) -> Tensor:
        return algorithm.loss(wrap(algorithm, list(tensors)), batch).total

    assert total(*leaves).dtype == torch.float64
    assert torch.autograd.gradcheck(total, leaves, eps=1e-6, atol=1e-6)


# Where an option has an effect only beside another one.
COMPANIONS = {"loss_type": {"label_smoothing": 0.2}}


@pytest.mark.parametrize("name", names("offline", "reward"))
def test_every_option_changes_what_is_learnt(name: str) -> None:
    for option, default in options_of(make(name)).items():
        beside = COMPANIONS.get(option, {})
        usual, _ = learn(make(name, beside), raw_batch(name))
        for value in others(type(make(name)), option, default):
            found, _ = learn(make(name, beside | {option: value}), raw_batch(name))
            assert any(not torch.allclose(usual[n], found[n], rtol=1e-4, atol=1e-7) for n in usual), (option, value)


def others(algorithm: type, option: str, default: Any) -> list[Any]:
    """Return values of an option that are not its default."""
    if isinstance(default, bool):
        return [not default]
    if isinstance(default, str):
        return [value for value in get_args(get_type_hints(algorithm)[option]) if value != default]
    return [default / 2 + 0.1]


def test_the_registry_lists_every_algorithm_file() -> None:
    files = {path.stem for path in Path(str(base.__file__)).parent.glob("*.py")}
    shared = {"__init__", "base", "clipping", "grouped", "imitation", "penalty", "ranked", "registry", "rejection"}
    assert files - shared == set(ALGORITHMS)
