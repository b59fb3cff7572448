"""Each layer of a packed model is computed within its module: hooks there see it, and gradient checkpointing works."""

from __future__ import annotations

from types import MethodType
from typing import Any

import pytest
import torch

from prefloop.batch import ListRows, Rows, collate
from prefloop.errors import ConfigError
from prefloop.models.checkpointing import checkpoint_layers
from prefloop.models.packed import supports_packed
from prefloop.models.packed_forward import predicting_hidden
from tiny_models import causal, uneven


def some_rows(count: int = 6, length: int = 20) -> Rows:
    draw = torch.Generator().manual_seed(1)
    sequences = [torch.randint(3, 40, (length - 2 * n,), generator=draw).tolist() for n in range(count)]
    return collate(sequences, [3] * count)


def gradients(model: Any, rows: Rows) -> dict[str, torch.Tensor]:
    model.zero_grad()
    torch.manual_seed(5)
    states = predicting_hidden(model, rows)
    (states * torch.randn(states.shape, generator=torch.Generator().manual_seed(2))).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def kept_numbers(model: Any, rows: Rows) -> int:
    """Return how many float32 numbers a forward pass keeps for the backward pass, parameters left out."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    seen: dict[int, int] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        if x.untyped_storage().data_ptr() not in own:
            seen[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes() // 4
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        states = predicting_hidden(model, rows)
    assert states.requires_grad
    return sum(seen.values())


@pytest.mark.parametrize(
    ("kind", "more"),
    [*((kind, {}) for kind in ("Llama", "Qwen3", "GPTNeoX", "GPT2", "Gemma3")), ("Llama", {"attention_dropout": 0.3})],
)
def test_gradients_with_checkpointing_are_the_same_bits(kind: str, more: dict[str, Any]) -> None:
    model, rows = uneven(causal(kind, sharp=3.0, **more)).train(), some_rows()
    assert supports_packed(model)
    plain = gradients(model, rows)
    checkpoint_layers(model, "policy")
    again = gradients(model, rows)
    assert plain.keys() == again.keys() and max(float(g.abs().max()) for g in plain.values()) > 1e-2
    assert all(torch.equal(plain[name], again[name]) for name in plain)


def test_checkpointing_keeps_at_most_two_times_the_width_a_token_and_layer() -> None:
    model, rows = causal(hidden_size=64, intermediate_size=172, num_hidden_layers=8).train(), some_rows(8, 40)
    tokens_and_layers = int(rows.mask.sum()) * 8
    plain = kept_numbers(model, rows)
    checkpoint_layers(model, "policy")
    few = kept_numbers(model, rows)
    assert few <= 2 * 64 * tokens_and_layers < 10 * 64 * tokens_and_layers <= plain


def test_a_layer_is_computed_within_its_module_forward_and_in_the_checkpoints_second_pass() -> None:
    """FSDP's hooks stand around `packed_forward`: they run once, and the checkpoint computes again inside of them."""
    model, rows = causal(num_hidden_layers=3).train(), some_rows()
    plain = gradients(model, rows)
    seen: list[str] = []

    def packed_forward(self: Any, compute: Any, x: torch.Tensor) -> torch.Tensor:
        seen.append(f"hooks of {self.number}")
        return compute(x)  # type: ignore[no-any-return]

    for number, layer in enumerate(model.model.layers):
        layer.number, layer.packed_forward = number, MethodType(packed_forward, layer)
    hooked = gradients(model, rows)
    assert seen == [f"hooks of {n}" for n in range(3)]
    checkpoint_layers(model, "policy")
    again = gradients(model, rows)
    assert seen == [f"hooks of {n}" for n in (0, 1, 2, 0, 1, 2)]
    assert all(torch.equal(plain[n], hooked[n]) and torch.equal(plain[n], again[n]) for n in plain)


def test_lists_through_transformers_learn_the_same_with_checkpointing() -> None:
    """Their prompts are read apart, into a cache, only without it."""
    model, rows = causal("Gemma2", sharp=3.0).train(), some_rows()
    ids = rows.ids.clone()
    ids[:, :3] = ids[:1, :3]
    lists = ListRows(ids, rows.mask, rows.action, k=len(rows))
    assert not supports_packed(model)
    plain = gradients(model, lists)
    checkpoint_layers(model, "policy")
    again = gradients(model, lists)
    for name, gradient in plain.items():
        assert torch.allclose(gradient, again[name], atol=1e-4 * max(1.0, float(gradient.abs().max()))), name


def test_a_model_without_layers_to_compute_again_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"gradient_checkpointing: the policy model \(Linear\)"):
        checkpoint_layers(torch.nn.Linear(2, 2), "policy")
