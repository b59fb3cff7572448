"""REINFORCE++: PPO without a critic, whose baseline is the mean of the whole batch (Hu 2025, section 3.1).

The reward of a token is -kl * (old_logp - ref_logp), plus the score at the sequence's last token, as in PPO. The
advantage of a token is the sum of the rewards from it on, shifted and scaled to mean 0 and variance 1 over all tokens
of the batch. It needs no group: one completion a prompt is enough, and more prompts are the better use of samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from prefloop.algorithms.base import Role
from prefloop.algorithms.clipping import TokenRatio
from prefloop.batch import CreditedBatch, LogprobBatch
from prefloop.ops.gae import gae
from prefloop.ops.masked import whiten


@dataclass(frozen=True)
class ReinforcePlusPlus(TokenRatio):
    """Its options are those of the clip and the KL."""

    name = "reinforce_plus_plus"
    trains: tuple[Role, ...] = ("policy",)
    aggregation = "token"
    min_k = 1

    def credit(self, batch: LogprobBatch) -> tuple[CreditedBatch, Mapping[str, float]]:
        reward = self.token_reward(batch)
        # GAE of a critic that always says 0, with gamma = lambda = 1, is the sum of the rewards to go.
        to_go, _ = gae(reward, torch.zeros_like(reward), batch.action, 1.0, 1.0)
        advantage = whiten(to_go, batch.action)
        credited = CreditedBatch(**vars(batch), advantage=advantage, returns=None)
        return credited, {"kl_coefficient": self.kl}
