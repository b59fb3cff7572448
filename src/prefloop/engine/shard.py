"""Holds models that learn in pieces, one on each rank, by torch's FSDP2; a layer is whole only while it is computed.

The pieces are float32. Where the model is in bfloat16, a layer is rounded when it is gathered, and gradients are added
up in float32 (`MixedPrecisionPolicy`): the pieces take the place of the float32 copies that `Learner` has on one rank.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from prefloop.algorithms.base import Role
from prefloop.batch import Rows
from prefloop.engine.learner import Part
from prefloop.engine.outline import Outline, Spec
from prefloop.engine.processes import Ranks
from prefloop.engine.rank_learner import RankLearner
from prefloop.models import packed as packed_models
from prefloop.models import packed_forward

LOW = {torch.bfloat16, torch.float16}
FORWARD_METHODS = ("states", "read", "read_detached")  # Callers use them beside `forward`.


def shard(outline: Outline, ranks: Ranks, packed: Mapping[Role, bool]) -> tuple[dict[Role, Any], list[Tensor]]:
    """Return models in pieces that have no numbers yet, and their tensors by the numbers of the outline.

    packed: whether `models.packed` computes a model, which is not tried out on pieces
    """
    # Memory on the CPU that is never written is never taken, so that the whole models are nowhere.
    models, made = outline.build(
        lambda spec: torch.empty(spec.shape, dtype=_held(spec), device="cpu" if spec.is_parameter else ranks.device)
    )
    dtypes = {id(tensor): spec.dtype for spec, tensor in zip(outline.specs, made, strict=True)}
    places = {id(p): (role, name) for role, model in models.items() for name, p in model.named_parameters()}
    for role, model in models.items():
        rounded = {dtypes[id(p)] for p in model.parameters() if p.requires_grad} & LOW
        _wrap(model, ranks, rounded.pop() if rounded else None)
        packed_models.decide(model.model, packed[role])
        # Where one rank reads its rows in two passes and another in one, each would wait for layers of the other's.
        packed_forward.decide_split(model.model, False)
    pieces = {(role, name): p for role, model in models.items() for name, p in model.named_parameters()}
    return models, [pieces[places[id(x)]] if id(x) in places else x for x in made]


def _held(spec: Spec) -> torch.dtype:
    return torch.float32 if spec.learns and spec.dtype in LOW else spec.dtype


def _wrap(model: Any, ranks: Ranks, dtype: torch.dtype | None) -> None:
    """Cut a model into pieces, each layer by itself. dtype: in which layers are computed; None = that of the pieces"""
    policy = MixedPrecisionPolicy(cast_forward_inputs=False)
    if dtype is not None:
        policy = MixedPrecisionPolicy(dtype, torch.float32, cast_forward_inputs=False)
    # A model that stayed whole after a forward pass would go on with weights from before a step.
    mesh = init_device_mesh(ranks.device, (ranks.world,))
    how: Any = {"mesh": mesh, "mp_policy": policy, "reshard_after_forward": True}
    for block in _layers(model):
        block.packed_forward = MethodType(_packed_forward, block)
        fully_shard(block, **how)
        register_fsdp_forward_method(block, "packed_forward")
    fully_shard(model, **how)
    for name in FORWARD_METHODS:
        if hasattr(model, name):
            register_fsdp_forward_method(model, name)


def _packed_forward(block: Any, compute: Any, x: Tensor) -> Tensor:
    """Is the forward method of a layer for `models.packed`: FSDP gathers the layer's weights before it."""
    found: Tensor = compute(x)
    return found


@contextmanager
def no_warning_of_views() -> Iterator[None]:
    """Silence what FSDP says of a model that returns a view: nothing here writes into what a model returned."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")
        yield


def _layers(model: nn.Module) -> list[Any]:
    """Return the layers of a model: its longest list of modules."""
    stacks = [list(module) for module in model.modules() if isinstance(module, nn.ModuleList)]
    return max(stacks, key=len, default=[])


@torch.no_grad()
def put(target: Tensor, source: Tensor) -> None:
    """Write a whole tensor into a tensor, or each rank its part into its piece."""
    if isinstance(target, DTensor):
        target.to_local().copy_(piece_like(target, source).to_local())
    else:
        target.copy_(source)


def piece_like(like: DTensor, source: Tensor) -> DTensor:
    """Return this rank's piece of a whole tensor, cut as `like` is. Nothing is sent."""
    source = source.to(like.device, like.dtype)
    return distribute_tensor(source, like.device_mesh, like.placements, src_data_rank=None)


class ShardedLearner(RankLearner):
    """Trains models in pieces."""

    def _parts(self, batch: Rows) -> tuple[list[Rows], list[Part]]:
        """Return all parts of the batch on all ranks, and those that this rank runs.

        All ranks run equally many, since each gathers layers with all the others: one with fewer runs a list once more
        and counts nothing of it.
        """
        shares = self._shares(batch)
        mine = [Part(part, float(self.ranks.world)) for part in shares[self.ranks.rank]]  # FSDP divides by the ranks.
        idle = max(map(len, shares)) - len(mine)
        spare = batch.select(torch.arange(batch.together, device=batch.ids.device))
        return [part for share in shares for part in share], mine + [Part(spare, 0.0)] * idle

    def _run(self, *args: Any) -> Any:
        with no_warning_of_views():
            return super()._run(*args)
