"""Log-probabilities in chunks equal those of the whole tensor, and one place shifts by one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from prefloop.kernels import logprobs
from prefloop.kernels.logprobs import from_logits, predicting, scatter, token_logprobs


def case(m: int = 23, h: int = 5, v: int = 11) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    hidden = torch.randn(m, h, generator=generator, dtype=torch.float64)
    weight = torch.randn(v, h, generator=generator, dtype=torch.float64)
    bias = torch.randn(v, generator=generator, dtype=torch.float64)
    return hidden, weight, bias, torch.randint(0, v, (m,), generator=generator)


@pytest.mark.parametrize("chunk", [1, 4, 23, 4096, None])
@pytest.mark.parametrize(("temperature", "cap"), [(1.0, None), (0.7, None), (0.7, 2.0)])
def test_chunks_give_the_log_softmax_and_its_gradient(chunk: int | None, temperature: float, cap: float | None) -> None:
    hidden, weight, bias, targets = case()
    inputs = [x.clone().requires_grad_() for x in (hidden, weight, bias)]
    logp = token_logprobs(*inputs, targets, temperature, chunk, cap)
    twin_inputs = [x.clone().requires_grad_() for x in (hidden, weight, bias)]
    logits = twin_inputs[0] @ twin_inputs[1].T + twin_inputs[2]
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    whole = torch.log_softmax(logits / temperature, dim=-1)
    twin = whole[torch.arange(len(targets)), targets]
    assert torch.allclose(logp, twin, atol=1e-12)
    weights = torch.linspace(-1, 1, len(targets), dtype=torch.float64)
    ours = torch.autograd.grad((logp * weights).sum(), inputs)
    theirs = torch.autograd.grad((twin * weights).sum(), twin_inputs)
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("vocabulary", [300, 50_000])
def test_memory_does_not_grow_with_positions_times_vocabulary(vocabulary: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No tensor of more than LOGITS numbers is made on the way, forward or backward, but the weight's gradient."""
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.shape != weight.shape:
                largest = max(largest, out.numel())
            return out

    monkeypatch.setattr(logprobs, "LOGITS", 1 << 20)
    hidden, weight = (
        torch.randn(20_000 if vocabulary == 300 else 200, 8),
        torch.randn(vocabulary, 8, requires_grad=True),
    )
    hidden.requires_grad_()
    with Watch():
        logp = token_logprobs(hidden, weight, None, torch.zeros(len(hidden), dtype=torch.long))
        logp.sum().backward()
    assert (1 << 19) < largest <= max(1 << 20, 64 * vocabulary)


def test_a_head_without_bias_works_and_finite_differences_agree() -> None:
    hidden, weight, _, targets = case(m=4, h=3, v=5)
    hidden, weight = hidden.requires_grad_(), weight.requires_grad_()
    assert torch.autograd.gradcheck(lambda h, w: token_logprobs(h, w, None, targets % 5, 0.9, 2), (hidden, weight))


def test_half_precision_logits_are_normalised_in_single_precision() -> None:
    logits = torch.randn(6, 50, generator=torch.Generator().manual_seed(0)).bfloat16()
    logp = from_logits(logits, torch.arange(6))
    assert logp.dtype == torch.float32
    assert torch.allclose(logp, torch.log_softmax(logits.float(), -1)[torch.arange(6), torch.arange(6)])


def test_probabilities_of_all_tokens_sum_to_one_at_any_temperature() -> None:
    logits = torch.randn(1, 9, generator=torch.Generator().manual_seed(0)).expand(9, 9)
    for temperature in (0.3, 1.0, 2.5):
        logp = from_logits(logits, torch.arange(9), temperature)
        assert float(logp.exp().sum()) == pytest.approx(1.0, abs=1e-5)


def test_no_completion_tokens_give_an_empty_tensor() -> None:
    assert token_logprobs(torch.zeros(0, 3), torch.zeros(5, 3), None, torch.zeros(0, dtype=torch.long)).shape == (0,)


def test_the_state_before_a_token_predicts_it() -> None:
    action = torch.tensor([[False, False, True, True], [False, True, False, False]])
    assert predicting(action).tolist() == [[False, True, True, False], [True, False, False, False]]


def test_values_come_back_to_where_their_tokens_stand() -> None:
    action = torch.tensor([[False, True, True], [True, False, True]])
    out = scatter(torch.tensor([1.0, 2.0, 3.0, 4.0]), action)
    assert out.tolist() == [[0.0, 1.0, 2.0], [3.0, 0.0, 4.0]]
