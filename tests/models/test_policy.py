"""A policy's log-probabilities are those of the whole logits, for every kind of head, padding and company."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from prefloop.batch import Rows
from prefloop.models.load import load_causal, weights_hash
from prefloop.models.policy import Head, Policy
from tiny_models import causal, folder, left_padded, random_rows

KINDS = ["Llama", "GPT2", "Gemma2", "Cohere"]


def full_logits(model: Any, rows: Rows, temperature: float) -> torch.Tensor:
    """Run each sequence alone, unpadded, through transformers' own forward. Return logp of the action tokens [M]."""
    out = []
    for n in range(len(rows)):
        ids = rows.ids[n][rows.mask[n]][None]
        logp = torch.log_softmax(model(input_ids=ids).logits[0].double() / temperature, -1)
        first = int(rows.action[n][rows.mask[n]].long().argmax())
        out += [logp[t - 1, ids[0, t]] for t in range(first, ids.shape[1])]
    return torch.stack(out)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probabilities_are_those_of_the_whole_logits(kind: str, temperature: float) -> None:
    model, rows = causal(kind), random_rows()
    policy = Policy(model, temperature)
    with torch.no_grad():
        out = policy(rows)
        assert torch.allclose(out.logp[rows.action].double(), full_logits(model, rows, temperature), atol=2e-5)
        logits = torch.cat(list(policy.logits(rows)))
        alone = torch.log_softmax(logits / temperature, -1).gather(1, rows.ids[rows.action][:, None]).squeeze(1)
        assert torch.allclose(alone, out.logp[rows.action], atol=2e-5)
    assert torch.equal(out.logp[~rows.action], torch.zeros_like(out.logp[~rows.action]))
    assert out.logp.shape == rows.ids.shape


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sharp", [0.1, 1.0, 10.0])
def test_a_head_that_scales_or_caps_its_logits_is_found_whatever_their_size(kind: str, sharp: float) -> None:
    """A cap hides where logits are small: a tiny Gemma 2 was once taken for linear, and wrong once trained."""
    found = Policy(causal(kind, sharp=sharp)).head
    assert found == {"Gemma2": Head(cap=5.0), "Cohere": Head(scale=0.25)}.get(kind, Head())
    if kind == "Gemma2":
        assert Policy(causal(kind, sharp=sharp, final_logit_softcapping=50.0)).head == Head(cap=50.0)
        assert Policy(causal(kind, sharp=sharp, final_logit_softcapping=None)).head == Head()


class OddLlama(LlamaForCausalLM):
    """Makes of its head's output what no config tells."""

    def forward(self, *args: Any, **how: Any) -> Any:
        out = super().forward(*args, **how)
        out.logits = torch.asinh(out.logits)
        return out


def test_a_head_that_is_not_known_is_left_to_the_model_and_its_states_are_at_hand() -> None:
    torch.manual_seed(0)
    model, rows = OddLlama(causal("Llama").config).eval(), random_rows()
    policy = Policy(model, 0.6)
    assert policy.head is None
    out = policy(rows, value_head=lambda states: states[:, 0])
    assert torch.allclose(out.logp[rows.action].double(), full_logits(model, rows, 0.6), atol=2e-5)
    assert out.value is not None
    assert torch.allclose(out.value[rows.action], policy.states(rows)[:, 0], atol=1e-5)
    whole = torch.cat([torch.log_softmax(some / 0.6, -1) for some in policy.logits(rows)])
    assert torch.allclose(whole.gather(1, rows.ids[rows.action][:, None]).squeeze(1), out.logp[rows.action], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_that_of_the_whole_logits(kind: str) -> None:
    model, rows = causal(kind, sharp=3.0).double(), random_rows(3)
    policy = Policy(model, 0.8)
    parameters = list(model.parameters())
    ours = torch.autograd.grad(policy(rows).logp.sum(), parameters)
    theirs = torch.autograd.grad(full_logits(model, rows, 0.8).sum(), parameters)
    for a, b in zip(ours, theirs, strict=True):
        # Rotary angles and soft caps pass through single precision inside transformers.
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_on_either_side_and_company_change_nothing(kind: str) -> None:
    policy, rows = Policy(causal(kind)), random_rows()
    left = left_padded(rows)
    with torch.no_grad():
        whole, on_the_left = policy(rows), policy(left)
        assert torch.allclose(whole.logp[rows.action], on_the_left.logp[left.action], atol=1e-5)
        garbage = Rows(torch.where(rows.mask, rows.ids, torch.tensor(10**9)), rows.mask, rows.action)
        assert torch.equal(policy(garbage).logp, whole.logp)
        for n in range(len(rows)):
            alone = rows.select(torch.tensor([n]))
            width = alone.ids.shape[1]
            assert torch.allclose(policy(alone).logp[0], whole.logp[n, :width], atol=1e-5)


@pytest.mark.parametrize("kind", ["Llama", "GPT2"])
def test_dropout_is_off_in_a_loaded_policy_even_in_training_mode(tmp_path: Path, kind: str) -> None:
    """With dropout, the first update's ratio would not be 1. Llama keeps its rate as a number, not as a module."""
    rates = (
        {"attention_dropout": 0.5} if kind == "Llama" else {"attn_pdrop": 0.5, "resid_pdrop": 0.5, "embd_pdrop": 0.5}
    )
    model, _ = load_causal(folder(tmp_path / "m", kind, **rates))
    policy, rows = Policy(model), random_rows()
    with torch.no_grad():
        assert torch.equal(policy.eval()(rows).logp, policy.train()(rows).logp)


def test_the_weights_hash_sees_every_bit_and_survives_saving(tmp_path: Path) -> None:
    path = folder(tmp_path / "m")
    model, _ = load_causal(path)
    before = weights_hash(model)
    assert weights_hash(load_causal(path)[0]) == before
    with torch.no_grad():
        next(iter(model.parameters())).view(-1)[3] += 1e-6
    assert weights_hash(model) != before
