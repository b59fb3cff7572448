"""Proximal policy optimisation for language models, with a learned critic (Schulman 2017; Ziegler 2019; Ouyang 2022).

The reward of a token is -kl * (old_logp - ref_logp), plus the score at the sequence's last token. GAE over tokens
computes the advantages. Ratio and value are clipped, and everything is divided once by the number of tokens of the
whole minibatch. docs/algorithms/ppo.md lists the thirty details and where each one lives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Self

import torch
from pydantic import Field

from prefloop.algorithms.base import Loss, Need, NotNegative, Positive, Role, Share
from prefloop.algorithms.clipping import TokenRatio
from prefloop.batch import CreditedBatch, LogprobBatch, PolicyOutput
from prefloop.ops.clip import clipped_value_loss
from prefloop.ops.gae import gae
from prefloop.ops.masked import explained_variance, masked_sum, whiten


@dataclass(frozen=True)
class Ppo(TokenRatio):
    """Holds the options of PPO beside those of the clip and the KL, each with its usual range.

    value_clip: 0.1 to 0.3;  value_coef: 0.05 to 0.5;  gamma: 1;  lam: 0.9 to 1
    critic_warmup: steps, from the next one on, in which only the critic learns; 0 to 20
    """

    value_clip: Positive = 0.2
    value_coef: NotNegative = 0.1
    gamma: Share = 1.0
    lam: Share = 0.95
    whiten_rewards: bool = False
    whiten_advantages: bool = True
    critic_warmup: Annotated[int, Field(ge=0)] = 0
    name = "ppo"
    trains: tuple[Role, ...] = ("policy", "critic")
    min_k = 1

    @property
    def needs(self) -> frozenset[Need]:
        return super().needs | {"value"}

    @property
    def holds(self) -> tuple[Role, ...]:
        return ("policy",) if self.critic_warmup else ()

    def credit(self, batch: LogprobBatch) -> tuple[CreditedBatch, Mapping[str, float]]:
        assert batch.value is not None
        reward = self.token_reward(batch)
        if self.whiten_rewards:
            reward = whiten(reward, batch.action, shift_mean=False)
        advantage, returns = gae(reward, batch.value, batch.action, self.gamma, self.lam)
        fit = explained_variance(batch.value, returns, batch.action)
        if self.whiten_advantages:
            advantage = whiten(advantage, batch.action)
        credited = CreditedBatch(**vars(batch), advantage=advantage, returns=returns)
        return credited, {"explained_variance": float(fit), "kl_coefficient": self.kl}

    def loss(self, out: PolicyOutput, batch: CreditedBatch) -> Loss:
        assert out.value is not None and batch.value is not None and batch.returns is not None
        action, tokens = batch.action, self.weight(batch)
        policy = super().loss(out, batch)
        value, cut = clipped_value_loss(out.value, batch.value, batch.returns, self.value_clip)
        value_sum = masked_sum(value, action)
        with torch.no_grad():
            metrics = {
                "value_loss": (value_sum.detach(), tokens),
                "value_clip_fraction": (masked_sum(cut.float(), action), tokens),
                "value_mean": (masked_sum(out.value, action), tokens),
            }
        # While the critic warms up, no gradient reaches the policy: not even a zero, which weight decay would act on.
        # Where the critic is a head on the policy, the head learns alone: `holds`.
        total = self.value_coef * value_sum
        return Loss(total if self.critic_warmup else policy.total + total, {**policy.metrics, **metrics})

    def adapt(self, metrics: Mapping[str, float]) -> Self:
        if self.critic_warmup:
            return replace(self, critic_warmup=self.critic_warmup - 1)
        return super().adapt(metrics)
