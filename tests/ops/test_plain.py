"""Compiled code for CPU and GPU refuses what it would misread: here real sharded tensors, and the code need not run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist  # noqa: TID251 -- this test makes what an engine may hold
from torch import Tensor, nn

from prefloop.kernels import gpu, native
from prefloop.kernels.linear import linear, rms_norm, silu_gate

if not dist.is_available():
    pytest.skip("this build of torch has no torch.distributed: nothing can be sharded", allow_module_level=True)


@pytest.fixture(scope="module")
def sharded() -> Iterator[Callable[[Tensor], Tensor]]:
    """Makes a DTensor of one process: what FSDP holds weights as."""
    from torch.distributed.tensor import Shard, distribute_tensor  # noqa: TID251

    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    mesh = dist.init_device_mesh("cpu", (1,))
    yield lambda x: distribute_tensor(x, mesh, [Shard(0)])
    dist.destroy_process_group()


X, ONE, U = torch.ones(4, 6), torch.ones(4), torch.rand(4, dtype=torch.float64)
TARGETS, VECTORS, ANGLES = torch.zeros(4, dtype=torch.long), torch.ones(4, 3, 2), torch.ones(4, 1, 1)
OWN = torch.ones(1, 2, 4, 1, 8, 2)  # keys and values of four rows
ROWS = TARGETS, TARGETS, TARGETS.bool(), (TARGETS, TARGETS, TARGETS)
ENTRIES: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "gate": (gpu.gate, (X,)),
    "gate_back": (gpu.gate_back, (X, X[:, :3])),
    "logprob": (gpu.logprob, (X, TARGETS, 1.0)),
    "logprob_back": (gpu.logprob_back, (X, TARGETS, 1.0, ONE, ONE)),
    "draw": (gpu.draw, (X, U, 1.0)),
    "rotary": (gpu.rotary, (VECTORS, ANGLES, ANGLES, 2)),
    "attend": (gpu.attend, (VECTORS, (X[:, :1], X[:, :1]), OWN, 0, *ROWS, 1.0)),
    "native.address": (native.address, (X,)),
    "native.Panels": (native.Panels, (X, ONE)),
    "native.draw": (native.draw, (X, U, 1.0)),
    "native.times": (lambda x: native.times(x, native.Panels(torch.ones(2, 6))), (X,)),
}


def _with_each(given: tuple[Any, ...], change: Callable[[Tensor], Tensor]) -> Iterator[tuple[Any, ...]]:
    """The arguments with one of the tensors changed: each in turn, those in tuples too."""
    for n, value in enumerate(given):
        if isinstance(value, Tensor):
            yield (*given[:n], change(value), *given[n + 1 :])
        elif isinstance(value, tuple):
            for other in _with_each(value, change):
                yield (*given[:n], other, *given[n + 1 :])


@pytest.mark.parametrize("name", ENTRIES)
def test_every_entry_refuses_a_sharded_tensor_in_each_of_its_arguments(
    name: str, sharded: Callable[[Tensor], Tensor]
) -> None:
    entry, given = ENTRIES[name]
    if name.startswith("native") and not native.AVAILABLE:
        pytest.skip("the C code was not compiled here")
    tried = list(_with_each(given, sharded))
    assert tried
    for arguments in tried:
        with pytest.raises(TypeError, match="DTensor.*full_tensor"):
            entry(*arguments)


def test_an_entry_called_by_name_refuses_as_well(sharded: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(TypeError, match="DTensor"):
        gpu.gate(x=sharded(X))


def test_a_parameter_is_plain_and_a_sharded_parameter_is_not(sharded: Callable[[Tensor], Tensor]) -> None:
    assert native.fits(nn.Parameter(X)) is native.AVAILABLE
    assert not native.fits(nn.Parameter(sharded(X))) and not gpu.fits(nn.Parameter(sharded(X)))


def test_torch_computes_with_a_sharded_weight_what_it_does_with_a_plain_one(
    sharded: Callable[[Tensor], Tensor],
) -> None:
    x, weight = torch.randn(40, 6), torch.randn(8, 6)
    whole: list[tuple[Tensor, Any]] = [
        (linear(x, weight), linear(sharded(x), sharded(weight))),
        (rms_norm(x, weight[0], 1e-6), rms_norm(sharded(x), sharded(weight[0]), 1e-6)),
        (silu_gate(x), silu_gate(sharded(x))),
    ]
    for plain, split in whole:
        assert torch.allclose(plain, split.full_tensor(), atol=1e-5)
