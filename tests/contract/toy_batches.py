"""Makes small batches with everything that can go wrong in them, and takes gradients through the real learner.

Plain gradient descent at rate 1 stands in for Adam: after one step, the change of the weights *is* the gradient.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from toy_models import VOCAB, ToyCritic, ToyPolicy, ToyReward

from prefloop.algorithms.registry import kind_of
from prefloop.batch import (
    AnchoredBatch,
    CreditedBatch,
    LogprobBatch,
    PolicyOutput,
    RewardOutput,
    Rows,
    collate,
    collate_rankings,
)
from prefloop.config_section import Optimiser
from prefloop.engine.base import terms_of
from prefloop.engine.learner import Learner
from prefloop.types import Ranking

# -- batches ---------------------------------------------------------------------------------------------------------


def sequences(n: int, seed: int) -> Rows:
    rng = np.random.default_rng(seed)
    prompts, totals = rng.integers(1, 4, n), rng.integers(5, 13, n)
    return collate([rng.integers(0, VOCAB, t).tolist() for t in totals], prompts.tolist())


def noise(shape: tuple[int, ...] | torch.Size, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def annotated(n: int = 24, k: int = 4) -> LogprobBatch:
    """Return rollouts of a policy slightly other than the one that learns, so that ratios differ from 1."""
    rows = sequences(n, seed=5)
    with torch.no_grad():
        old = ToyPolicy(1)(rows).logp + 0.1 * noise(rows.ids.shape, 1)
        ref, value = ToyPolicy(7)(rows).logp, ToyCritic(2)(rows) + 0.3 * noise(rows.ids.shape, 2)
    return LogprobBatch(
        rows.ids,
        rows.mask,
        rows.action,
        sampler_logp=old,
        reward=noise((n,), 3),
        group=torch.arange(n) // k,
        ended=torch.ones(n, dtype=torch.bool),
        old_logp=old,
        ref_logp=ref,
        value=value,
        baseline=noise((n // k,), 6).repeat_interleave(k),
    )


def lists(count: int = 9) -> AnchoredBatch:
    """Return lists of two to four completions with ties, partial rankings, and several rankings of one list."""
    rng = np.random.default_rng(11)
    encoded, ids, rankings = [], [], []
    for _ in range(count):
        k = int(rng.integers(2, 5))
        rows = [(rng.integers(0, VOCAB, int(rng.integers(4, 9))).tolist(), 2) for _ in range(k)]
        names_ = [f"c{i}" for i in range(k)]
        said = []
        for who in range(int(rng.integers(1, 3))):
            order = [names_[i] for i in rng.permutation(k)]
            tiers = ((order[0],), tuple(order[1:])) if k < 4 else ((order[0], order[1]), (order[2],))
            said.append(Ranking("i", f"w{who}", "quality", tiers))
        encoded.append(rows)
        ids.append(names_)
        rankings.append(said)
    batch = collate_rankings(encoded, ids, rankings)
    with torch.no_grad():
        logp = ToyPolicy(7)(batch.rows()).logp
        total = torch.where(batch.rows().action, logp, 0.0).sum(1).view(batch.present.shape)
    return AnchoredBatch(
        **vars(batch),
        ref_total=torch.where(batch.present, total, torch.nan),
        reference_point=torch.full((count,), 0.7),
    )


def raw_batch(name: str) -> Any:
    kind = kind_of(name)
    return sequences(24, seed=5) if kind == "supervised" else annotated() if kind == "online" else lists()


def ready(algorithm: Any, batch: Any) -> Any:
    """Return what is learnt from: the batch with credit, where the algorithm gives it, less what it does not keep."""
    if not hasattr(algorithm, "credit"):
        return batch
    credited = algorithm.credit(batch)[0]
    return credited.learnt() if isinstance(credited, CreditedBatch) else credited


def dirty(batch: Any, extra: int = 0) -> Any:
    """Return the same batch with `extra` columns of padding, garbage ids and NaN wherever nothing may be read."""
    rng = np.random.default_rng(3)
    changed: dict[str, Tensor] = {}
    wide = {}
    for f in dataclasses.fields(batch):
        value = getattr(batch, f.name)
        if value is None:
            continue
        per_token = f.metadata["axes"].endswith("T")
        wide[f.name] = torch.nn.functional.pad(value, (0, extra)) if per_token else value
        if per_token and value.is_floating_point():
            wide[f.name] = torch.where(torch.nn.functional.pad(batch.action, (0, extra)), wide[f.name], torch.nan)
    garbage = torch.from_numpy(rng.integers(-(10**6), 10**6, tuple(wide["ids"].shape)))
    changed["ids"] = torch.where(wide["mask"], wide["ids"], garbage)
    return dataclasses.replace(batch, **(wide | changed))


# -- loss and gradient -----------------------------------------------------------------------------------------------


def models_for(algorithm: Any) -> dict[Any, nn.Module]:
    makers = {"policy": lambda: ToyPolicy(1), "critic": lambda: ToyCritic(2), "reward": lambda: ToyReward(3)}
    return {role: makers[role]() for role in algorithm.trains}


def learn(algorithm: Any, batch: Any, token_budget: int = 10**6) -> tuple[dict[str, Tensor], Mapping[str, float]]:
    """Return the gradient of every parameter, and the step's metrics, by the engine's own learner."""
    models = models_for(algorithm)
    settings = Optimiser(lr=1.0, warmup=0.0, schedule="constant", clip_norm=1e12, token_budget=token_budget)
    learner = Learner(models, settings, 10, dict.fromkeys(models, 1.0))
    learner.optimisers = {r: torch.optim.SGD(m.parameters(), lr=1.0) for r, m in models.items()}  # type: ignore[misc]
    before = {f"{r}.{n}": p.detach().clone() for r, m in models.items() for n, p in m.named_parameters()}
    metrics = learner.step(*terms_of(batch, algorithm))
    assert metrics["skipped"] == 0.0
    after = {f"{r}.{n}": p.detach() for r, m in models.items() for n, p in m.named_parameters()}
    return {name: before[name] - after[name] for name in before}, metrics


def assert_same(a: Mapping[str, Tensor], b: Mapping[str, Tensor], atol: float = 1e-9) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.allclose(a[name], b[name], atol=atol, rtol=1e-7), name
    assert max(float(x.abs().max()) for x in a.values()) > 1e-4, "a gradient of nothing shows nothing"


def outputs(algorithm: Any, batch: Any, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    models, rows = models_for(algorithm), batch.rows()
    out = []
    for role in algorithm.trains:
        said = models[role](rows)
        tensor = said.logp if isinstance(said, PolicyOutput) else getattr(said, "score", said)
        out.append(tensor.detach().to(dtype))
    return out


def wrap(algorithm: Any, tensors: list[Tensor]) -> Any:
    if "reward" in algorithm.trains:
        return RewardOutput(tensors[0])
    return PolicyOutput(tensors[0], tensors[1] if len(tensors) > 1 else None)


def read_mask(algorithm: Any, batch: Any) -> Tensor:
    return batch.present.flatten() if "reward" in algorithm.trains else batch.rows().action
