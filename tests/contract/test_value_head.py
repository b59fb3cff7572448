"""PPO's critic as a head on the policy (`[align] critic = "head"`): what the engine promises holds with it too."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_engines import assert_same, kept
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from prefloop.algorithms.ppo import Ppo
from prefloop.batch import CreditedBatch, PolicyOutput, Rows
from prefloop.config_section import Optimiser
from prefloop.engine import Engine, Training, make
from prefloop.engine.base import Term
from prefloop.kernels import native
from prefloop.models.packed_forward import hidden_states
from prefloop.models.policy import Policy
from prefloop.models.tokenization import make_tokenization
from prefloop.models.value_head import ValueHead
from prefloop.ops.masked import masked_sum
from tiny_models import causal, random_rows, tokenizer

WORDS = tokenizer()
HEADS = [f"critic.head.{name}" for name in ("weight", "bias")]
ALGORITHM = Ppo(value_coef=0.5)


def headed(kind: str = "Llama", budget: int = 1000, critic_lr: float = 1e-1) -> Engine:
    model = causal(kind, vocab=len(WORDS), sharp=3.0)
    policy = Policy(model)
    models: Any = {"policy": policy, "critic": ValueHead(policy), "reference": Policy(copy.deepcopy(model))}
    settings = Optimiser(lr=1e-2, token_budget=budget)
    training = Training(settings, 9, {"policy": 1e-2, "critic": critic_lr}, average=0.9)
    return make(models, make_tokenization(WORDS, model), 1, training=training)


def batch(engine: Engine, seed: int = 0, n: int = 12, advantage: float = 1.0) -> CreditedBatch:
    """Return what the engine says of random rows, with random advantages and returns."""
    rows, draw = random_rows(n, seed=seed), torch.Generator().manual_seed(seed)
    logp, value = engine.forward("policy", rows), engine.forward("critic", rows)
    noise = [torch.where(rows.action, torch.randn(rows.ids.shape, generator=draw), 0.0) for _ in range(2)]
    return CreditedBatch(
        **vars(rows), sampler_logp=logp, old_logp=logp, ref_logp=logp, value=value, group=torch.arange(n),
        reward=torch.zeros(n), ended=torch.ones(n, dtype=torch.bool), advantage=advantage * noise[0], returns=noise[1],
    )  # fmt: skip


def learnt(engine: Engine, steps: range) -> Engine:
    for step in steps:
        engine.step(Term(batch(engine, step), ALGORITHM))
    return engine


class ValueOnly(Ppo):
    """Has the loss of the values alone."""

    def loss(self, out: PolicyOutput, batch: CreditedBatch) -> Any:
        assert out.value is not None and batch.returns is not None
        loss = super().loss(out, batch)
        return replace(loss, total=masked_sum((out.value - batch.returns) ** 2, batch.action))


@pytest.mark.parametrize("kind", ["Llama", "GPT2", "Gemma2", "Cohere"])
def test_values_are_the_head_on_the_states_before_each_token_and_those_of_training_are_the_same(kind: str) -> None:
    """Llama and GPT-2 are computed from packed tokens; Gemma 2 caps its logits and Cohere scales them."""
    engine = learnt(headed(kind), range(2))
    models: Any = engine.models  # type: ignore[attr-defined]
    policy, critic, rows = models["policy"], models["critic"], random_rows(6, seed=3)
    states = hidden_states(policy.model, rows)
    expected = F.pad(F.linear(states, critic.head.weight, critic.head.bias).squeeze(-1), (1, 0))[:, :-1]
    value = engine.forward("critic", rows)
    assert value.std() > 1e-3 and not value[~rows.action].any()
    assert torch.allclose(value, torch.where(rows.action, expected, 0.0), atol=1e-5)
    both: PolicyOutput = policy(rows, value_head=critic.read)
    assert both.value is not None and torch.equal(both.value.detach(), value)
    assert torch.equal(both.logp.detach(), engine.forward("policy", rows))


def test_a_step_reads_each_row_once_for_both(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, seen = headed("Cohere"), []
    some = batch(engine)
    models: Any = engine.models  # type: ignore[attr-defined]
    models["policy"].model.base_model.register_forward_hook(lambda _, args, out: seen.append(1))
    engine.step(Term(some, ALGORITHM))
    assert len(seen) == 1


def test_values_start_at_0_and_the_first_ratio_and_the_kl_are_exact() -> None:
    engine = headed()
    some = batch(engine)
    assert some.value is not None and not some.value.any()
    assert torch.equal(engine.forward("reference", some, as_learner=True), some.old_logp)
    assert engine.step(Term(some, ALGORITHM))["ratio"] == 1.0


def test_the_loss_of_the_values_trains_trunk_and_head_together_and_a_warm_up_the_head_alone() -> None:
    engine = headed()
    some = batch(engine)
    _, first = engine.gradients(Term(some, ValueOnly()))
    assert set(HEADS) < first.keys()
    assert not any(g.any() for name, g in first.items() if name not in HEADS), "a head of 0 has nothing to pass on"
    learnt(engine, range(2))
    _, found = engine.gradients(Term(some, ValueOnly()))
    assert all(found[name].any() for name in HEADS)
    trunk = [name for name in found if name.startswith("policy.") and "lm_head" not in name]
    assert len(trunk) > 10 and all(found[name].any() for name in trunk)
    _, warming = engine.gradients(Term(some, Ppo(critic_warmup=1)))
    assert sorted(warming) == sorted(HEADS) and all(g.any() for g in warming.values())


def test_one_pass_has_the_gradient_of_two_and_does_not_depend_on_how_the_batch_is_split() -> None:
    engine, narrow = learnt(headed(), range(2)), learnt(headed(budget=64), range(2))
    narrow.restore(*kept(engine.state()))
    some = batch(engine, n=30)
    metrics, found = engine.gradients(Term(some, ALGORITHM))
    in_parts, of_parts = narrow.gradients(Term(some, ALGORITHM))
    assert in_parts == pytest.approx(metrics, abs=1e-5)
    models: Any = engine.models  # type: ignore[attr-defined]
    out = PolicyOutput(models["policy"](some.rows()).logp, models["critic"](some.rows()))
    (ALGORITHM.loss(out, some).total / ALGORITHM.weight(some)).backward()
    apart: dict[str, Tensor] = {
        f"{r}.{n}": p.grad for r in ("policy", "critic") for n, p in models[r].named_parameters()
    }
    assert found.keys() == apart.keys() == of_parts.keys()
    for name, gradient in apart.items():
        assert torch.allclose(found[name], gradient, atol=1e-5), name
        assert torch.allclose(of_parts[name], gradient, atol=1e-5), name


def test_the_head_has_a_learning_rate_of_its_own() -> None:
    slow, fast = headed(critic_lr=1e-3), headed(critic_lr=1e-1)
    for engine in (slow, fast):
        engine.step(Term(batch(engine), ALGORITHM))
    a, b = slow.state().tensors, fast.state().tensors
    assert all(torch.equal(a["policy"][name], b["policy"][name]) for name in a["policy"])
    assert b["critic"]["head.weight"].abs().mean() > 50 * a["critic"]["head.weight"].abs().mean() > 0


@pytest.mark.parametrize("forgotten", [None, "critic", "critic.adam", "critic.average"])
def test_the_head_and_its_moments_are_in_the_state_and_without_them_the_run_is_another(forgotten: str | None) -> None:
    engine = learnt(headed(), range(3))
    tensors, values = kept(engine.state())
    assert {key.rpartition(".")[0] for key in tensors["critic.adam"]} == tensors["critic"].keys() == {
        "head.weight", "head.bias"}  # fmt: skip
    assert not any("head.weight" in name and "lm_head" not in name for name in tensors["policy"])
    again = learnt(headed(), range(5, 6))
    if forgotten:
        blank: Any = (
            {} if forgotten == "critic.adam" else {n: torch.zeros_like(t) for n, t in tensors[forgotten].items()}
        )
        tensors = {**tensors, forgotten: blank}
    again.restore(tensors, values)
    ours, theirs = learnt(again, range(3, 5)).state(), learnt(engine, range(3, 5)).state()
    if forgotten:
        with pytest.raises(AssertionError):
            assert_same(ours, theirs)
    else:
        assert_same(ours, theirs)


def test_the_policy_is_saved_without_the_head(tmp_path: Path) -> None:
    engine = learnt(headed(), range(2))
    engine.save("policy", tmp_path / "policy")
    engine.save("reference", tmp_path / "reference")
    saved, plain = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("policy", "reference"))
    assert saved.state_dict().keys() == plain.state_dict().keys()
    assert (tmp_path / "policy" / "config.json").read_text() == (tmp_path / "reference" / "config.json").read_text()
    rows = random_rows(4)
    assert torch.allclose(Policy(saved)(rows).logp, engine.forward("policy", rows), atol=1e-5)


def test_the_record_says_that_a_trunk_in_training_is_not_computed_by_compiled_code() -> None:
    found = headed().computed_by()
    assert found["scoring"] == {
        "policy": "packed", "critic": "packed", "reference": "compiled" if native.AVAILABLE else "packed"}  # fmt: skip
    assert found["learning"] == {"policy": "packed", "critic": "packed"}
    assert headed("Cohere").computed_by()["learning"] == {"policy": "transformers", "critic": "transformers"}


def test_the_head_is_in_float32_on_a_policy_of_fewer_bits() -> None:
    policy = Policy(causal(sharp=3.0).bfloat16())
    head = ValueHead(policy)
    torch.nn.init.normal_(head.head.weight)
    rows: Rows = random_rows(4)
    value = head(rows)
    assert value.dtype == torch.float32 and value.std() > 0
    assert [p.dtype for p in head.parameters()] == [torch.float32] * 2
