"""The learner bounds what a bad gradient may touch, follows schedules and averages, and its state is all of its
state.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from prefloop.algorithms.base import Loss
from prefloop.algorithms.registry import make
from prefloop.algorithms.sft import Sft
from prefloop.batch import LogprobBatch, Rows, collate
from prefloop.config_section import Optimiser
from prefloop.engine.base import Sampling, Term
from prefloop.engine.learner import MAX_SKIPS, Learner, lr_scale
from prefloop.engine.local import LocalEngine
from prefloop.errors import TrainingError
from prefloop.models.policy import Policy
from prefloop.models.tokenization import Tokenization
from tiny_models import causal, random_rows

FLAT = Optimiser(lr=1e-2, warmup=0.0, schedule="constant")


@dataclass(frozen=True)
class Broken(Sft):
    """Multiplies the supervised loss by a number that may be no number."""

    factor: float = math.nan

    def loss(self, out: Any, batch: Rows) -> Loss:
        good = super().loss(out, batch)
        return Loss(good.total * self.factor, good.metrics)


def learner_of(settings: Optimiser = FLAT, average: float = 0.0, steps: int = 20) -> Learner:
    return Learner({"policy": Policy(causal(sharp=3.0))}, settings, steps, {"policy": settings.lr}, average)


def weights(learner: Learner) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in learner.models["policy"].named_parameters()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def flat_state(learner: Learner) -> dict[str, torch.Tensor]:
    return {f"{file}/{n}": t.clone() for file, tensors in learner.state()[0].items() for n, t in tensors.items()}


# -- gradients that are no numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(factor: float) -> None:
    learner, rows = learner_of(average=0.9), random_rows()
    learner.step(Term(rows, Sft()))
    before = flat_state(learner)
    metrics = learner.step(Term(rows, Broken(factor=factor)))
    assert metrics["skipped"] == 1.0 and math.isnan(metrics["grad_norm_policy"])
    assert same(before, flat_state(learner))
    assert learner.steps == 2  # The schedule goes on.
    assert all(p.grad is None for p in learner.models["policy"].parameters())
    assert learner.step(Term(rows, Sft()))["skipped"] == 0.0
    assert not same(before, flat_state(learner))


def test_one_bad_term_spoils_the_whole_step_and_no_other() -> None:
    learner, rows = learner_of(), random_rows()
    before = weights(learner)
    learner.step(Term(rows, Sft()), Term(rows, Broken()))
    assert same(before, weights(learner))


def test_five_bad_gradients_in_a_row_end_the_run_and_weights_are_as_before() -> None:
    learner, rows = learner_of(), random_rows()
    before = weights(learner)
    for _ in range(MAX_SKIPS - 1):
        learner.step(Term(rows, Broken()))
    with pytest.raises(TrainingError, match="policy model was not finite 5 steps in a row"):
        learner.step(Term(rows, Broken()))
    assert same(before, weights(learner))


def test_a_good_gradient_in_between_starts_the_count_anew() -> None:
    learner, rows = learner_of(), random_rows()
    for _ in range(3):
        for _ in range(MAX_SKIPS - 1):
            learner.step(Term(rows, Broken()))
        learner.step(Term(rows, Sft()))


# -- schedule, clipping, terms ---------------------------------------------------------------------------------------


def test_the_learning_rate_rises_then_follows_its_schedule_to_zero() -> None:
    def curve(**options: Any) -> list[float]:
        return [lr_scale(Optimiser(**options), step, 10) for step in range(11)]

    assert curve(warmup=0.0, schedule="constant") == [1.0] * 11
    assert curve(warmup=0.0, schedule="linear") == pytest.approx([1 - s / 10 for s in range(11)])
    assert curve(warmup=0.2, schedule="linear") == pytest.approx([0.5, 1.0, *[1 - s / 8 for s in range(9)]])
    cosine = curve(warmup=0.2, schedule="cosine")
    assert cosine[:3] == pytest.approx([0.5, 1.0, 1.0]) and cosine[6] == pytest.approx(0.5)
    assert cosine[10] == pytest.approx(0.0, abs=1e-12) and cosine[2:] == sorted(cosine[2:], reverse=True)
    assert lr_scale(Optimiser(warmup=0.0, schedule="linear"), 99, 10) == 0.0
    assert lr_scale(Optimiser(warmup=0.0, schedule="cosine"), 99, 10) == pytest.approx(0.0)
    assert lr_scale(Optimiser(warmup=1.0), 3, 4) == 1.0


def test_each_step_uses_the_scheduled_rate_of_its_own_model() -> None:
    settings = Optimiser(lr=0.5, warmup=0.5, schedule="linear")
    models: Any = {"policy": Policy(causal()), "critic": Policy(causal(seed=1))}
    learner = Learner(models, settings, 4, {"policy": settings.lr, "critic": 0.2})
    used = []
    for _ in range(4):
        learner.step(Term(random_rows(), Sft()))
        used.append([learner.optimisers[r].param_groups[0]["lr"] for r in ("policy", "critic")])
    assert used == [pytest.approx(x) for x in ([0.25, 0.1], [0.5, 0.2], [0.5, 0.2], [0.25, 0.1])]


def test_adam_has_the_epsilon_and_decay_it_should() -> None:
    group = learner_of(Optimiser(lr=1e-3, weight_decay=0.3)).optimisers["policy"].param_groups[0]
    assert group["eps"] == 1e-5 and group["weight_decay"] == 0.3


def gradient(*terms: Term, settings: Optimiser = FLAT) -> dict[str, torch.Tensor]:
    learner = learner_of(settings.model_copy(update={"lr": 1.0}))
    learner.optimisers = {"policy": torch.optim.SGD(learner.models["policy"].parameters(), lr=1.0)}  # type: ignore[dict-item]
    before = weights(learner)
    learner.step(*terms)
    return {n: before[n] - after for n, after in weights(learner).items()}


def test_terms_add_up_each_with_its_scale_and_its_own_weight() -> None:
    free = FLAT.model_copy(update={"clip_norm": 1e9})
    a, b = random_rows(4, seed=1), random_rows(9, seed=2)
    alone = [gradient(Term(x, Sft()), settings=free) for x in (a, b)]
    both = gradient(Term(a, Sft()), Term(b, Sft(), 0.3), settings=free)
    for n, value in both.items():
        assert torch.allclose(value, alone[0][n] + 0.3 * alone[1][n], atol=1e-5)


def test_the_gradient_is_cut_to_its_global_norm() -> None:
    cut = gradient(Term(random_rows(), Sft()), settings=FLAT.model_copy(update={"clip_norm": 0.01}))
    assert float(torch.cat([g.flatten() for g in cut.values()]).norm()) == pytest.approx(0.01, rel=1e-3)


def test_a_splits_gradient_on_a_real_model_is_the_whole_batches() -> None:
    rows = random_rows(20)
    whole = gradient(Term(rows, Sft()), settings=FLAT.model_copy(update={"clip_norm": 1e9}))
    small = FLAT.model_copy(update={"clip_norm": 1e9, "token_budget": 64})
    parts = gradient(Term(rows, Sft()), settings=small)
    assert len(list(rows.split(64))) > 3
    for n in whole:
        assert torch.allclose(whole[n], parts[n], atol=1e-5)


def test_metrics_are_means_over_the_whole_batch() -> None:
    rows = random_rows(20)
    learner = learner_of(FLAT.model_copy(update={"token_budget": 64}))
    with torch.no_grad():
        expected = float(-learner.models["policy"](rows).logp[rows.action].mean())
    assert learner.step(Term(rows, Sft()))["loss"] == pytest.approx(expected, rel=1e-5)


def test_gradient_checkpointing_is_turned_on_and_learns_the_same_bits() -> None:
    found = []
    for wanted in (False, True):
        learner = learner_of(FLAT.model_copy(update={"gradient_checkpointing": wanted}))
        model: Any = learner.models["policy"].train()
        assert all(layer.gradient_checkpointing is wanted for layer in model.model.model.layers)
        learner.step(Term(random_rows(), Sft()))
        found.append(weights(learner))
    assert same(*found)


# -- the weight average ----------------------------------------------------------------------------------------------


def test_the_average_follows_its_formula() -> None:
    learner, rows = learner_of(average=0.8), random_rows()
    shadow = weights(learner)
    for step in range(4):
        learner.step(Term(rows, Sft()))
        decay = min(0.8, (1 + step) / (10 + step))
        shadow = {n: decay * s + (1 - decay) * weights(learner)[n] for n, s in shadow.items()}
    for n, s in learner.averaged["policy"].items():
        assert torch.allclose(s, shadow[n], atol=1e-6)


def test_models_hold_the_average_inside_the_block_and_their_own_weights_after_it() -> None:
    learner = learner_of(average=0.9)
    for _ in range(3):
        learner.step(Term(random_rows(), Sft()))
    own, average = weights(learner), {n: t.clone() for n, t in learner.averaged["policy"].items()}
    assert not same(own, average)
    with pytest.raises(KeyError), learner.averaged_weights():
        assert same(weights(learner), average)
        raise KeyError
    assert same(weights(learner), own) and same(learner.averaged["policy"], average)


def test_what_is_trained_and_averaged_is_where_the_models_are() -> None:
    learner = Learner({"policy": Policy(causal().bfloat16())}, FLAT, 20, {"policy": 1e-3}, 0.9, "meta")
    kept = [*learner.models["policy"].parameters(), *learner.weights["policy"].values()]
    assert {x.device.type for x in (*kept, *learner.averaged["policy"].values())} == {"meta"}


def test_without_an_average_the_block_changes_nothing() -> None:
    learner = learner_of()
    before = weights(learner)
    with learner.averaged_weights():
        assert same(weights(learner), before)


# -- frozen parameters -----------------------------------------------------------------------------------------------


def half_frozen(average: float = 0.9) -> Learner:
    policy = Policy(causal(sharp=3.0))
    policy.model.model.embed_tokens.requires_grad_(False)
    policy.model.model.layers[0].requires_grad_(False)
    return Learner({"policy": policy}, LONG, 8, {"policy": LONG.lr}, average)


def test_a_frozen_parameter_is_not_moved_averaged_or_in_the_state() -> None:
    learner = half_frozen()
    frozen = {n: p for n, p in learner.models["policy"].named_parameters() if not p.requires_grad}
    before = {n: p.clone() for n, p in frozen.items()}
    run(learner, 0, 2)
    assert frozen and same(before, frozen)
    files, _ = learner.state()
    names = {n for n, p in learner.models["policy"].named_parameters() if p.requires_grad}
    assert files["policy"].keys() == files["policy.average"].keys() == names
    assert {key.rpartition(".")[0] for key in files["policy.adam"]} == names
    held = sum(len(group["params"]) for group in learner.optimisers["policy"].param_groups)
    assert held == len(names)


def test_a_learner_with_frozen_parameters_goes_on_bit_for_bit() -> None:
    straight = run(half_frozen(), 0, 5)
    second = half_frozen()
    second.restore(*copy.deepcopy(run(half_frozen(), 0, 3).state()))
    assert same(flat_state(run(second, 3, 5)), flat_state(straight))


def test_a_model_without_a_parameter_that_learns_is_refused() -> None:
    with pytest.raises(TrainingError, match="policy"):
        Learner({"policy": Policy(causal()).requires_grad_(False)}, FLAT, 8, {"policy": 1e-2})


# -- low precision ---------------------------------------------------------------------------------------------------


def low_precision(lr: float = 1e-2, average: float = 0.0) -> Learner:
    return Learner({"policy": Policy(causal(sharp=3.0).bfloat16())}, Optimiser(lr=lr), 20, {"policy": lr}, average)


def test_steps_too_small_for_a_bfloat16_add_up() -> None:
    """They do as in float32; alone, most steps would leave nothing."""
    lr = 5e-6
    low, exact = low_precision(lr), learner_of(Optimiser(lr=lr))
    with torch.no_grad():
        for mine, theirs in zip(exact.weights["policy"].values(), low.models["policy"].parameters(), strict=True):
            mine.copy_(theirs)
    before = weights(exact)
    for _ in range(20):
        low.step(Term(random_rows(), Sft()))
        exact.step(Term(random_rows(), Sft()))
    kept, held = low.weights["policy"], weights(low)
    moved, expected = (
        torch.cat([(now[n].detach() - before[n]).flatten() for n in before]) for now in (kept, weights(exact))
    )
    assert float(moved @ expected / (expected @ expected)) == pytest.approx(1.0, abs=0.05)
    assert same(held, {n: w.detach().bfloat16() for n, w in kept.items()})
    still = torch.cat([(held[n].float() == before[n]).flatten() for n in before])
    assert 0.5 < still.float().mean() < 1


def test_a_low_precision_learner_restored_from_its_state_goes_on_bit_for_bit() -> None:
    straight = run(low_precision(average=0.9), 0, 8)
    files, plain = copy.deepcopy(run(low_precision(average=0.9), 0, 3).state())
    second = low_precision(average=0.9)
    second.restore(files, plain)
    run(second, 3, 8)
    assert same(flat_state(second), flat_state(straight)) and same(weights(second), weights(straight))
    assert {t.dtype for t in files["policy"].values()} == {torch.float32}


def test_a_low_precision_model_holds_the_average_inside_the_block_and_its_own_weights_after_it() -> None:
    learner = run(low_precision(average=0.9), 0, 3)
    own, kept = weights(learner), flat_state(learner)
    with learner.averaged_weights():
        held = weights(learner)
        assert not same(held, own)
    assert same(held, {n: t.bfloat16() for n, t in learner.averaged["policy"].items()})
    assert same(weights(learner), own) and same(flat_state(learner), kept)


# -- state -----------------------------------------------------------------------------------------------------------

LONG = Optimiser(lr=1e-2, warmup=0.3, schedule="cosine", weight_decay=0.01)


def run(learner: Learner, first: int, last: int) -> Learner:
    for step in range(first, last):
        learner.step(Term(random_rows(seed=step), Broken(factor=1.0 if step != 2 else math.nan)))
    return learner


def test_a_learner_restored_from_its_state_goes_on_bit_for_bit() -> None:
    straight = run(learner_of(LONG, 0.9, 8), 0, 8)
    first = run(learner_of(LONG, 0.9, 8), 0, 3)
    files, plain = copy.deepcopy(first.state())
    second = learner_of(LONG, 0.9, 8)
    run(second, 5, 6)  # Whatever it did before is gone.
    second.restore(files, plain)
    assert second.skipped_in_a_row == 1
    assert same(flat_state(run(second, 3, 8)), flat_state(straight))


@pytest.mark.parametrize("dropped", ["policy", "exp_avg", "exp_avg_sq", ".step", "policy.average", "steps"])
def test_each_item_of_the_state_is_needed(dropped: str) -> None:
    """This is the negative control of the test above: without any one of them, the outcome is another."""
    straight = run(learner_of(LONG, 0.9, 8), 0, 8)
    files, plain = copy.deepcopy(run(learner_of(LONG, 0.9, 8), 0, 3).state())
    blank, blank_plain = run(learner_of(LONG, 0.9, 8), 5, 6).state()
    if dropped in files:
        files[dropped] = blank[dropped]
    elif dropped in plain:
        plain[dropped] = blank_plain[dropped]
    else:
        suffix = dropped if dropped.startswith(".") else f".{dropped}"
        names = [n for n in files["policy.adam"] if n.endswith(suffix)]
        assert names
        for n in names:
            files["policy.adam"][n] = torch.zeros_like(files["policy.adam"][n])
    second = learner_of(LONG, 0.9, 8)
    second.restore(files, plain)
    assert not same(flat_state(run(second, 3, 8)), flat_state(straight))


def test_the_count_of_bad_gradients_survives_a_restart() -> None:
    learner = learner_of()
    for _ in range(MAX_SKIPS - 1):
        learner.step(Term(random_rows(), Broken()))
    again = learner_of()
    again.restore(*copy.deepcopy(learner.state()))
    with pytest.raises(TrainingError):
        again.step(Term(random_rows(), Broken()))


# -- the first update of a rollout -----------------------------------------------------------------------------------


def test_before_the_first_update_the_kl_is_exactly_zero_and_the_ratio_one() -> None:
    model = causal(sharp=14.0)
    frozen = copy.deepcopy(model)
    policy: Any = Policy(model, 0.8)
    learner = Learner({"policy": policy}, FLAT, 10, {"policy": FLAT.lr})
    tokenization = Tokenization(None, (1,), 1, False, 64)
    engine = LocalEngine({"policy": policy, "reference": Policy(frozen, 0.8)}, tokenization, 0, 64, learner)
    prompts = [[5, 6], [7, 8, 9], [10]] * 4
    samples = engine.generate(prompts, list(range(12)), Sampling(10, 0.8))
    rows = collate([[*p, *s.ids] for p, s in zip(prompts, samples, strict=True)], [len(p) for p in prompts])
    old, ref = engine.forward("policy", rows), engine.forward("reference", rows)
    assert torch.equal(old, ref)
    sampler = torch.zeros_like(old)
    sampler[rows.action] = torch.tensor([x for s in samples for x in s.logprobs])
    assert (sampler - old).abs().max() < 1e-5
    batch = LogprobBatch(
        **{f.name: getattr(rows, f.name) for f in dataclasses.fields(rows)},
        sampler_logp=sampler,
        reward=torch.randn(12, generator=torch.Generator().manual_seed(0)),
        group=torch.arange(12) // 3,
        ended=torch.ones(12, dtype=torch.bool),
        old_logp=old,
        ref_logp=ref,
        value=None,
    )
    for name in ("grpo", "rloo"):
        algorithm = make(name)
        metrics = engine.step(Term(algorithm.credit(batch)[0], algorithm))
        if name == "grpo":  # This is the first of the two updates.
            assert metrics["ratio"] == pytest.approx(1.0, abs=1e-6)
            assert metrics["approx_kl"] < 1e-10 and metrics["clip_fraction"] == 0.0
        else:
            assert metrics["ratio"] != pytest.approx(1.0, abs=1e-4)
    assert not torch.equal(engine.forward("policy", rows), old)
    assert torch.equal(engine.forward("reference", rows), ref)  # The reference is frozen.
