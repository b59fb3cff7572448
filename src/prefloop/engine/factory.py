"""Makes an engine of models. Stages call `make`, and hold what it returns as an `Engine`, nothing below it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn

from prefloop.algorithms.base import Role
from prefloop.config_rollout import refuse_endpoint
from prefloop.config_section import TOKEN_BUDGET
from prefloop.engine.base import Engine, Training
from prefloop.engine.learner import Learner
from prefloop.engine.local import LocalEngine
from prefloop.engine.placement import Placement
from prefloop.engine.processes import joined
from prefloop.models.lora import rank_of
from prefloop.models.tokenization import Tokenization


def make(
    models: Mapping[Role, nn.Module],
    tokenization: Tokenization,
    seed: int,
    placement: str | Placement = "cpu",
    training: Training | None = None,
    own_sampler: bool = False,
) -> Engine:
    """Return an engine on these models, which are moved to where they compute.

    placement:   where the work is done; a plain string is a device of this process
    training:    which of them learn, and how; None where the engine only samples and scores
    own_sampler: whether samples come from a copy of the policy, which changes only in `sync`, so that sampling and
                 learning may go on at the same time
    """
    where = Placement(placement) if isinstance(placement, str) else placement
    if "policy" in models:
        refuse_endpoint(where.rollout, "this command")
    elsewhere = where.rollout.backend != "local" and "policy" in models  # Servers have a copy in any case.
    own_sampler = own_sampler and not elsewhere
    engine: Engine
    if (ranks := joined()) is not None:
        from prefloop.engine.spmd import GroupEngine  # It loads much of torch.distributed.

        engine = GroupEngine.make(ranks, models, tokenization, seed, training, own_sampler, where.offload)
    else:
        engine = _local(models, tokenization, seed, where, training, own_sampler)
    if not elsewhere:
        return engine
    from prefloop.engine.rollouts.dialect import Ours
    from prefloop.engine.rollouts.engine import ServedEngine

    policy: Any = models["policy"]
    vocabulary = int(policy.model.get_input_embeddings().weight.shape[0])
    ours = Ours(tokenization, vocabulary, rank_of(policy.model), policy.model.dtype == torch.float32)
    return cast(Engine, ServedEngine(engine, ours, seed, where))


def _local(
    models: Mapping[Role, nn.Module],
    tokenization: Tokenization,
    seed: int,
    where: Placement,
    training: Training | None,
    own_sampler: bool,
) -> Engine:
    learner, budget = None, TOKEN_BUDGET
    if training is not None:
        learns = {role: models[role] for role in training.lr}
        learner = Learner(learns, training.settings, training.steps, training.lr, training.average, where.device)
        budget = training.settings.usual_budget
    return LocalEngine(models, tokenization, seed, budget, learner, where.device, own_sampler, where.offload)
