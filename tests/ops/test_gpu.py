"""Kernels for GPUs compute what torch does, forward and backward; without a GPU, Triton interprets them on the CPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from prefloop.engine.decoding.sampler import choose
from prefloop.kernels import gpu, native
from prefloop.kernels.linear import linear, rotary, silu_gate
from prefloop.kernels.logprobs import token_logprobs


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.bfloat16, 0.01)])
@pytest.mark.parametrize("width", [37, 1025])
def test_a_gate_and_its_gradient(width: int, dtype: torch.dtype, bound: float, gpu_kernels: str) -> None:
    x, slope = numbers(5, 2 * width).to(dtype).double(), numbers(5, width, seed=1).to(dtype).double()
    exact = x.clone().requires_grad_()
    gate, up = exact.chunk(2, dim=-1)
    expected = F.silu(gate) * up
    expected.backward(slope)
    ours = x.to(gpu_kernels, dtype).requires_grad_()
    found = silu_gate(ours)
    found.backward(slope.to(gpu_kernels, dtype))
    assert exact.grad is not None and ours.grad is not None
    assert torch.allclose(found.cpu().double(), expected, rtol=bound, atol=bound)
    assert torch.allclose(ours.grad.cpu().double(), exact.grad, rtol=bound, atol=bound)
    assert silu_gate(ours[:0]).shape == (0, width)


def test_rotary_positions_and_their_gradient(gpu_kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, slope = numbers(7, 6, 10).float(), numbers(7, 6, 10, seed=1).float()
    angle = numbers(7, 1, 5, seed=2).float()
    said = []
    for device in (gpu_kernels, "cpu"):
        mine = vectors.to(device).requires_grad_()
        found = rotary(mine, angle.cos().to(device), angle.sin().to(device), 4)
        found.backward(slope.to(device))
        assert mine.grad is not None
        said.append((found.detach().cpu(), mine.grad.cpu()))
        monkeypatch.setattr(gpu, "fits", lambda x: False)
    assert not torch.equal(said[0][0][:, :4], vectors[:, :4]) and torch.equal(said[0][0][:, 4:], vectors[:, 4:])
    for ours, torchs in zip(*said, strict=True):
        assert torch.allclose(ours, torchs, atol=1e-6)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
@pytest.mark.parametrize("bias", [False, True])
def test_log_probabilities_and_their_gradients(bias: bool, dtype: torch.dtype, bound: float, gpu_kernels: str) -> None:
    """Chunks are 3 of 7, the vocabulary has more than one block, and a temperature is set; torch in float64 is the
    measure.
    """
    given = [numbers(7, 8), numbers(5000, 8, seed=1), numbers(5000, seed=2) if bias else None]
    targets, slope = torch.tensor([0, 4999, 1, 2, 4096, 3, 17]), numbers(7, seed=3).float()
    rounded = [None if x is None else x.to(dtype) for x in given]
    said = []
    for device, kind in ((gpu_kernels, dtype), ("cpu", torch.float64)):
        mine = [None if x is None else x.to(device, kind, copy=True).requires_grad_() for x in rounded]
        hidden, weight = mine[:2]
        assert hidden is not None and weight is not None
        found = token_logprobs(hidden, weight, mine[2], targets.to(device), 0.7, 3)
        found.backward(slope.to(device, found.dtype))
        said.append([found.detach(), *(x.grad for x in mine if x is not None and x.grad is not None)])
    assert len(said[0]) == 3 + bias
    for ours, exact in zip(*said, strict=True):
        assert torch.allclose(ours.cpu().double(), exact, rtol=bound, atol=bound * float(exact.abs().max()))


@pytest.mark.parametrize("words", [40, 9001])
def test_tokens_are_drawn_as_torch_draws_them(words: int, gpu_kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are the same but where rounding decides; also where few tokens have a probability, and at both ends of
    [0,1).
    """
    logits = 3 * numbers(64, words).float().to(gpu_kernels)
    logits[32:, 2:-2] = -torch.inf
    u = torch.rand(64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    u[::8], u[1::8] = 1e-17, 1 - 1e-16
    monkeypatch.setattr(native, "AVAILABLE", False)
    token, logp = choose(logits, u.to(gpu_kernels), 0.7, 1.0)
    monkeypatch.setattr(gpu, "fits", lambda x: False)
    slow, slow_logp = choose(logits, u.to(gpu_kernels), 0.7, 1.0)
    same = token == slow
    assert same[u < 1 - 1e-9].sum() >= 55 and len(token.unique()) > 8  # of 56 rows
    assert torch.allclose(logp[same], slow_logp[same], atol=1e-4) and logp.isfinite().all()


@pytest.mark.parametrize("bias", [False, True])
def test_a_product_is_added_onto_what_is_there(bias: bool, gpu_kernels: str) -> None:
    x, weight, onto = (numbers(*shape).to(gpu_kernels).float() for shape in ((4, 3), (5, 3), (4, 5)))
    added = torch.ones(5, device=gpu_kernels) if bias else None
    assert torch.allclose(linear(x, weight, added, onto=onto), onto + x @ weight.T + (1.0 if bias else 0.0), atol=1e-5)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
@pytest.mark.parametrize(("groups", "each", "size"), [(2, 3, 10), (1, 1, 64), (2, 7, 64), (4, 2, 16)])
def test_a_step_of_attention(
    groups: int, each: int, size: int, dtype: torch.dtype, bound: float, gpu_kernels: str
) -> None:
    """Rows of two prompts, of all lengths, agree with torch's own attention; new keys and values are kept."""
    if dtype == torch.bfloat16 and gpu_kernels == "cpu":
        pytest.skip("needs a GPU: Triton's interpreter multiplies matrices of bfloat16 as if they were integers")
    rows, room, layers, layer, tokens = 5, 80, 3, 1, 90
    own = numbers(layers, 2, rows, groups, room, size).to(gpu_kernels, dtype)
    shared = numbers(layers, 2, tokens, groups, size, seed=1).to(gpu_kernels, dtype)
    vectors = numbers(4, groups * (each + 2), size, seed=2).to(gpu_kernels, dtype)
    angle = numbers(200, size // 2, seed=3).to(gpu_kernels)
    place, drawn = torch.tensor([4, 0, 2, 1]), torch.tensor([70, 0, 7, 64])
    first, count = torch.tensor([0, 75, 75, 0]), torch.tensor([75, 15, 15, 75])
    ended = torch.tensor([False, False, True, False])
    expected, before = [], own.clone()
    for n in range(4):
        turn = angle[count[n] + drawn[n]]
        vector = rotary(vectors[n][None].cpu().double(), turn.cos().cpu(), turn.sin().cpu(), groups * (each + 1))[0]
        q, k, v = vector.split((groups * each, groups, groups))
        prompt = shared[layer, :, first[n] : first[n] + count[n]].transpose(1, 2).cpu().double()
        mine = own[layer, :, place[n], :, : drawn[n]].cpu().double()
        keys, values = (torch.cat([prompt[i], mine[i], x[:, None]], dim=1) for i, x in enumerate((k, v)))
        read = F.scaled_dot_product_attention(q.view(groups, each, size), keys, values, scale=0.3)
        expected.append(read.flatten())
    address = shared.data_ptr() + first * groups * size * shared.element_size()
    given = [x.to(gpu_kernels) for x in (place, drawn, ended, address, torch.full((4,), shared.stride(1)), count)]
    turns = angle.cos().to(dtype), angle.sin().to(dtype)
    found = gpu.attend(vectors, turns, own, layer, *given[:3], (given[3], given[4], given[5]), 0.3)
    assert found.isfinite().all()
    live = ~ended
    assert torch.allclose(found.cpu().double()[live], torch.stack(expected)[live], rtol=bound, atol=bound)
    changed = (own != before).flatten(3).any(-1)
    assert changed[layer].sum() == 8 and changed.sum() == 8, "one key and one value of every row, in one layer"
    assert torch.equal(own[layer, 1, 0, :, 0], vectors[1, groups * (each + 1) :])
