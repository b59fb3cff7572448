"""Trains by several ranks: each runs whole lists of every batch, and one weight divides the loss of all.

`WholeLearner` is for adapters: every rank holds the whole models, of which little learns, and gradients are added up.
`shard.ShardedLearner` is for models in pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from prefloop.batch import Rows
from prefloop.engine.base import Term
from prefloop.engine.learner import Learner, Part, Sums, add
from prefloop.engine.processes import Ranks, dealt


class RankLearner(Learner):
    """Is what both have in common: metrics are summed over all ranks, by rank."""

    def __init__(self, ranks: Ranks, *args: Any, **named: Any):
        self.ranks = ranks
        super().__init__(*args, **named)

    def _shares(self, batch: Rows) -> list[list[Rows]]:
        """Return the parts that each rank runs."""
        shares = share_index(batch, self.ranks.world)
        return [list(batch.select(index.to(batch.ids.device)).split(self.token_budget)) for index in shares]

    def _added_up(self, sums: Sums) -> Sums:
        total: Sums = {}
        for theirs in self.ranks.main.gathered(sums):
            for name, (amount, count) in theirs.items():
                add(total, name, amount, count)
        return total


class WholeLearner(RankLearner):
    """Trains the same weights on every rank: all add up the gradients of all, and make the same step."""

    def _parts(self, batch: Rows) -> tuple[list[Rows], list[Part]]:
        shares = self._shares(batch)
        return [part for share in shares for part in share], [Part(part) for part in shares[self.ranks.rank]]

    def _backward(self, terms: Sequence[Term]) -> dict[str, float]:
        metrics = super()._backward(terms)
        learnt = [p for model in self.models.values() for p in model.parameters() if p.requires_grad]
        every = self.ranks.main.gathered([p.grad is not None for p in learnt])
        for parameter, *reached in zip(learnt, *every, strict=True):
            if any(reached):  # AdamW passes over a parameter without a gradient, and one of zeros it moves.
                parameter.grad = self._sum(parameter)
        return metrics

    def _sum(self, parameter: nn.Parameter) -> Tensor:
        """Return the gradient of all ranks, added up in float32 in the order of ranks, so that all have the same bits.

        The order in which a collective adds up may change with the hardware.
        """
        mine = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        every = [torch.empty_like(mine, dtype=torch.float32) for _ in range(self.ranks.world)]
        dist.all_gather(every, mine.float().contiguous())
        total = every[0]
        for theirs in every[1:]:
            total += theirs
        return total.to(parameter.dtype)


def share_index(batch: Rows, world: int) -> list[Tensor]:
    """Return the places on the batch's first axis that each rank gets: whole lists, dealt by turns. It may be none.

    Who gets which list does not depend on their order, which each epoch of a step shuffles: another company of a row
    may round its numbers in another way, and the first ratio would not be exactly 1.
    """
    k = batch.together
    longest = batch.lengths.view(-1, k).amax(1).tolist()
    said = batch.ids.view(len(longest), -1, batch.ids.shape[-1]).tolist()
    order = sorted(range(len(longest)), key=lambda n: said[n])
    within = torch.arange(k)
    shares = [sorted(order[n] for n in some) for some in dealt([longest[n] for n in order], world)]
    return [(torch.tensor(some, dtype=torch.long)[:, None] * k + within).flatten() for some in shares]
