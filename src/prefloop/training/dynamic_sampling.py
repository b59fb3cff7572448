"""Replaces groups whose rewards are all equal by answers to other prompts, before a step learns (DAPO, Yu 2025).

Such a group has no advantage, so that a step learns from fewer answers than it drew. Which prompts are drawn, and with
which random keys, is a pure function of seed, step and attempt: a run that is resumed, or that samples ahead, draws the
same. What is replaced is neither learnt from nor kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from prefloop.batch import RolloutBatch
from prefloop.ops.group import constant_rows
from prefloop.rewards.base import Scores
from prefloop.training.rollout import Encoded, Rollouts


def without_constant_groups(
    rolls: Rollouts,
    prompts: Sequence[Encoded],
    draw: Callable[[Sequence[Encoded], int], Rollouts],
    attempts: int,
    seed: Sequence[int],
) -> Rollouts:
    """Return the rollouts in which constant groups are replaced, as far as so many attempts and the prompts go.

    rolls:   equally many completions of each prompt, which stand together, in groups 0, 1, 2 ...
    prompts: all there are to draw from
    draw:    answers prompts at an attempt, 1, 2 ...
    seed:    what the choice of prompts depends on, beside the attempt
    """
    asked, replaced = {p.id for p in rolls.prompts}, 0
    for attempt in range(1, attempts + 1):
        constant = rolls.batch.group[constant_rows(rolls.batch.reward, rolls.batch.group)].unique()
        order = np.random.default_rng([*seed, attempt]).permutation(len(prompts))
        fresh = [prompts[int(n)] for n in order if prompts[int(n)][0].id not in asked][: len(constant)]
        if not fresh:
            break
        asked |= {p.id for p, _ in fresh}
        replaced += len(fresh)
        rolls = _in_place(rolls, draw(fresh, attempt), constant[: len(fresh)])
    return replace(rolls, replaced=replaced)


def _in_place(rolls: Rollouts, fresh: Rollouts, groups: Tensor) -> Rollouts:
    """Return the rollouts in which the groups named stand for those of `fresh`, one for one."""
    k, where = len(fresh.prompts) // len(groups), torch.arange(len(rolls.prompts))
    for n, group in enumerate(groups.tolist()):
        where[rolls.batch.group == group] = len(rolls.prompts) + n * k + torch.arange(k)
    batch = _stacked(rolls.batch, replace(fresh.batch, group=groups[fresh.batch.group])).select(where)
    both = [*zip(rolls.prompts, rolls.completions, strict=True), *zip(fresh.prompts, fresh.completions, strict=True)]
    chosen = [both[n] for n in where.tolist()]
    total = [*rolls.scores.total, *fresh.scores.total]
    parts = {name: [*values, *fresh.scores.parts[name]] for name, values in rolls.scores.parts.items()}
    scores = Scores(
        [total[n] for n in where.tolist()],
        {name: [values[n] for n in where.tolist()] for name, values in parts.items()},
        rolls.scores.cut + fresh.scores.cut,
    )
    return replace(
        rolls, prompts=[p for p, _ in chosen], completions=[c for _, c in chosen], scores=scores, batch=batch
    )


def _stacked(first: RolloutBatch, second: RolloutBatch) -> RolloutBatch:
    """Return the rows of both, padded to the longer of them."""
    width = max(first.ids.shape[1], second.ids.shape[1])

    def wide(x: Tensor, axes: str) -> Tensor:
        return pad(x, (0, width - x.shape[1])) if axes.endswith("T") else x

    joined: dict[str, Any] = {
        f.name: torch.cat([wide(getattr(b, f.name), f.metadata["axes"]) for b in (first, second)])
        for f in fields(first)
    }
    return RolloutBatch(**joined)
