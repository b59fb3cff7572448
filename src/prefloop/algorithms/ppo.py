"""Proximal policy optimisation for language models, with a learned critic (Schulman 2017; Ziegler 2019; Ouyang 2022).

The reward of a token is -kl * (old_logp - ref_logp), plus the score at the sequence's last token. GAE over tokens
computes the advantages. Ratio and value are clipped, and everything is divided once by the number of tokens of the
whole minibatch. docs/algorithms/ppo.md lists the thirty details and where each one lives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from prefloop.algorithms.base import Loss, Need, Role
from prefloop.algorithms.penalty import KlPenalty
from prefloop.batch import CreditedBatch, LogprobBatch, PolicyOutput
from prefloop.ops.clip import clipped_policy_loss, clipped_value_loss
from prefloop.ops.gae import gae
from prefloop.ops.masked import explained_variance, last_index, masked_sum, whiten
from prefloop.ops.ratio import ratio_metrics


@dataclass(frozen=True)
class Ppo(KlPenalty):
    """Holds the options of PPO beside those of the KL, each with its usual range.

    clip, value_clip: 0.1 to 0.3;  value_coef: 0.05 to 0.5;  gamma: 1;  lam: 0.9 to 1
    """

    clip: float = 0.2
    value_clip: float = 0.2
    value_coef: float = 0.1
    gamma: float = 1.0
    lam: float = 0.95
    whiten_rewards: bool = False
    whiten_advantages: bool = True
    name = "ppo"
    trains: tuple[Role, ...] = ("policy", "critic")
    min_k = 1

    @property
    def needs(self) -> frozenset[Need]:
        return super().needs | {"value"}

    def credit(self, batch: LogprobBatch) -> tuple[CreditedBatch, Mapping[str, float]]:
        assert batch.value is not None
        reward = self.token_penalty(batch)
        rows = torch.arange(len(batch), device=reward.device)
        reward[rows, last_index(batch.action)] += batch.reward
        if self.whiten_rewards:
            reward = whiten(reward, batch.action, shift_mean=False)
        advantage, returns = gae(reward, batch.value, batch.action, self.gamma, self.lam)
        fit = explained_variance(batch.value, returns, batch.action)
        if self.whiten_advantages:
            advantage = whiten(advantage, batch.action)
        credited = CreditedBatch(**vars(batch), advantage=advantage, returns=returns)
        return credited, {"explained_variance": float(fit), "kl_coefficient": self.kl}

    def weight(self, batch: CreditedBatch) -> Tensor:
        return batch.action.sum().float()

    def loss(self, out: PolicyOutput, batch: CreditedBatch) -> Loss:
        assert out.value is not None and batch.value is not None and batch.returns is not None
        action, tokens = batch.action, self.weight(batch)
        policy, policy_cut = clipped_policy_loss(out.logp, batch.old_logp, batch.advantage, self.clip)
        value, value_cut = clipped_value_loss(out.value, batch.value, batch.returns, self.value_clip)
        if (penalty := self.loss_penalty(out.logp, batch)) is not None:
            policy = policy + penalty
        policy_sum, value_sum = masked_sum(policy, action), masked_sum(value, action)
        with torch.no_grad():
            metrics = {
                "policy_loss": (policy_sum.detach(), tokens),
                "value_loss": (value_sum.detach(), tokens),
                "value_clip_fraction": (masked_sum(value_cut.float(), action), tokens),
                "value_mean": (masked_sum(out.value, action), tokens),
            }
        moved = ratio_metrics(out.logp, batch.old_logp, action, out.logp - batch.old_logp, policy_cut)
        return Loss(policy_sum + self.value_coef * value_sum, metrics | moved)
