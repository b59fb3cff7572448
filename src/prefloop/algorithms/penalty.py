"""Holds an online algorithm near its reference: the KL penalty that all of them share, and its controller.

In the reward, -kl * (old_logp - ref_logp) of each token is added before advantages are computed (Ziegler 2019, eq. 2):
the policy gradient of a reward with k1 in it is that of the reverse KL. In the loss, an estimator of the KL at each
token is added to the policy's loss. An estimator alone has another gradient than the KL that it estimates, because the
tokens were sampled from the policy as well: times the importance ratio, k1 and k3 have the right one; k2 has it with
the ratio held constant (`kl_unbiased`). The k3 of the GRPO paper stands without the ratio (`kl_unbiased = false`).

An entropy bonus is added to the loss in the same way (`entropy_coef`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from torch import Tensor

from prefloop.algorithms.base import Need, NotNegative, Positive
from prefloop.batch import CreditedBatch, LogprobBatch
from prefloop.ops.kl import adapt_coefficient, entropy_bonus, k1, k2, k3
from prefloop.ops.masked import keep, last_index, masked_sum
from prefloop.ops.ratio import LARGEST

_ESTIMATORS = {"k1": k1, "k2": k2, "k3": k3}


@dataclass(frozen=True)
class KlPenalty:
    """Holds the options of the KL to the reference, each with its usual range.

    kl:           what a nat costs; 0.01 to 0.2 with a reward of unit variance; 0 = no reference is run
    kl_in:        "reward", or "loss" as in GRPO
    kl_estimator: of the loss: "k1", "k2" or "k3"; in the reward it is k1
    kl_unbiased:  in the loss: whether the gradient is that of the reverse KL (it is the estimator's own otherwise)
    kl_target:    nats a sequence that an adaptive controller steers to (3 to 12); 0 = fixed coefficient
    kl_horizon:   sequences over which the controller acts; 10,000
    kl_min, kl_max: bounds of a coefficient that is steered, by this controller or by evaluation
    entropy_coef: of an entropy bonus in the loss; 0 to 0.01
    """

    kl: NotNegative = 0.05
    kl_in: Literal["reward", "loss"] = "reward"
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    kl_unbiased: bool = True
    kl_target: NotNegative = 0.0
    kl_horizon: Positive = 10_000.0
    kl_min: NotNegative = 1e-4
    kl_max: Positive = 10.0
    entropy_coef: NotNegative = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.kl_min <= self.kl_max:
            raise ValueError(f"kl_min = {self.kl_min:g} and kl_max = {self.kl_max:g}: 0 < kl_min <= kl_max is needed")
        if self.kl_target > 0 and not self.kl:
            raise ValueError(
                "kl_target would have no effect: it multiplies kl, which is 0. Give kl a value to start at."
            )

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"reference"}) if self.kl else frozenset()

    def token_penalty(self, batch: LogprobBatch) -> Tensor:
        """Return what the KL takes from the reward at each token [N,T]: 0 outside the actions, or with it in the loss.

        It is to be added to the reward.
        """
        if batch.ref_logp is None or self.kl_in == "loss":
            return torch.zeros_like(batch.old_logp)
        return keep(-self.kl * k1(batch.old_logp, batch.ref_logp), batch.action)

    def token_reward(self, batch: LogprobBatch) -> Tensor:
        """Return the reward of each token [N,T]: the KL's part at each, and the score at the last."""
        reward = self.token_penalty(batch)
        reward[torch.arange(len(batch), device=reward.device), last_index(batch.action)] += batch.reward
        return reward

    def penalised(self, batch: LogprobBatch) -> Tensor:
        """Return each sequence's reward [N], less the KL where it is in the reward."""
        if batch.ref_logp is None or self.kl_in == "loss":
            return batch.reward
        return batch.reward - self.kl * masked_sum(k1(batch.old_logp, batch.ref_logp), batch.action, dim=1)

    def loss_penalty(self, logp: Tensor, batch: CreditedBatch) -> Tensor | None:
        """Return what KL and entropy add to the loss of each token [N,T], 0 outside the actions; None where nothing.

        logp: [N,T] by the policy that learns, with gradient
        """
        in_loss = batch.ref_logp is not None and self.kl_in == "loss"
        if not in_loss and not self.entropy_coef:
            return None
        now, old = keep(logp, batch.action), keep(batch.old_logp, batch.action)
        ratio = torch.exp((now - old).clamp(-LARGEST, LARGEST))
        added = torch.zeros_like(now)
        if in_loss and batch.ref_logp is not None:
            kl = _ESTIMATORS[self.kl_estimator](now, keep(batch.ref_logp, batch.action))
            if self.kl_unbiased:
                kl = kl * (ratio.detach() if self.kl_estimator == "k2" else ratio)
            added = added + self.kl * kl
        if self.entropy_coef:
            added = added + self.entropy_coef * ratio.detach() * entropy_bonus(now)
        return added

    def adapt(self, metrics: Mapping[str, float]) -> Self:
        """Return itself with the KL coefficient of the next step. metrics: means over the step."""
        if self.kl_target <= 0:
            return self
        n = int(metrics["sequences"])
        return self.priced(adapt_coefficient(self.kl, metrics["kl"], self.kl_target, n, self.kl_horizon))

    def priced(self, coefficient: float) -> Self:
        """Return itself with a KL coefficient, within its bounds."""
        return replace(self, kl=min(self.kl_max, max(self.kl_min, coefficient)))
