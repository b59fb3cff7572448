"""Online DPO: the reward ranks the policy's own completions, and DPO learns from the ranking at once (Guo 2024).

Each step draws K completions a prompt. In each pair of a group the one with the higher reward is preferred, and the
loss is that of DPO on all pairs of the list. With `labels = "soft"`, "i beats j" counts sigmoid(r_i - r_j), as a judge
of Bradley-Terry preferences would say: then the optimum is pi* ~ pi_ref exp(r / beta), which the sharp order passes by.
A group whose rewards are all equal is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

import torch

from prefloop.algorithms.dpo import Dpo
from prefloop.batch import LogprobBatch, ReferencedBatch
from prefloop.ops.group import constant_groups, constant_rows, rank_in_group
from prefloop.ops.masked import masked_sum


@dataclass(frozen=True)
class OnlineDpo(Dpo):
    """Holds its option beside those of DPO.

    labels: "hard", or "soft" for Bradley-Terry probabilities, which depend on the scale of the reward
    """

    labels: Literal["hard", "soft"] = "hard"
    name = "online_dpo"
    min_k = 2

    def credit(self, batch: LogprobBatch) -> tuple[ReferencedBatch, Mapping[str, float]]:
        constant = float(constant_groups(batch.reward, batch.group))
        return self._lists(batch), {"constant_groups": constant}

    def _lists(self, batch: LogprobBatch) -> ReferencedBatch:
        """Return a list for each group whose rewards differ, best completion first."""
        assert batch.ref_logp is not None
        told, group = (~constant_rows(batch.reward, batch.group)).nonzero().flatten(), batch.group
        rank = rank_in_group(batch.reward, group)[told]
        _, place = torch.unique(group[told], return_inverse=True)
        shape = (int(place.max()) + 1, int(rank.max()) + 1) if len(told) else (0, 1)
        row = torch.full(shape, -1).index_put((place, rank), told)
        present = row >= 0
        reward = batch.reward[row]
        gap = reward[:, :, None] - reward[:, None, :]
        pair = present[:, :, None] & present[:, None, :] & ~torch.eye(shape[1], dtype=torch.bool)
        win = torch.sigmoid(gap) if self.labels == "soft" else 0.5 * (1.0 + torch.sign(gap))
        size = present.sum(1).to(gap.dtype)
        each = torch.where(pair, 1 / (size * (size - 1) / 2)[:, None, None], torch.zeros_like(win))
        lowest = torch.where(present, reward, torch.inf).amin(1, keepdim=True)
        return ReferencedBatch(
            batch.ids[row],
            batch.mask[row] & present[..., None],
            batch.action[row] & present[..., None],
            present=present,
            wins=win * each,
            ties=(gap == 0) * each,
            choice_mask=torch.zeros(shape[0], 1, shape[1], dtype=torch.bool),
            choice_weight=torch.zeros(shape[0], 1),
            numerator=torch.zeros(shape),
            weight=torch.ones(shape[0]),
            best=(present & (reward == reward[:, :1])).to(gap.dtype),
            worst=(present & (reward == lowest)).to(gap.dtype),
            ref_total=masked_sum(batch.ref_logp, batch.action, dim=1)[row],
        )

    def adapt(self, metrics: Mapping[str, float]) -> Self:
        return self
