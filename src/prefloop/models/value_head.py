"""Defines PPO's critic as a linear head on the policy's own last hidden states (Ziegler 2019), and no second network.

The head is the only weight of its own, and starts at 0: the first values are the mean of the normalised reward, and the
first gradient reaches the head alone. Its loss trains the policy's trunk too.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from prefloop.batch import Rows
from prefloop.kernels.logprobs import scatter
from prefloop.models.policy import Policy
from prefloop.models.reward import scored

BYTES = 16  # A weight that learns has so many: itself, its gradient and AdamW's two moments, in float32.


class ValueHead(nn.Module):
    """Estimates the final reward before each completion token from the policy's states, as `reward.Critic` does.

    The policy is no submodule: its weights are trained, saved and counted as the policy's.
    """

    def __init__(self, policy: Policy):
        super().__init__()
        self.held = (policy,)  # torch registers what is in no tuple.
        self.head = nn.Linear(policy.model.config.get_text_config().hidden_size, 1, dtype=torch.float32)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @property
    def model(self) -> PreTrainedModel:
        """Return the model that computes the states."""
        return self.held[0].model

    def forward(self, rows: Rows) -> Tensor:
        """Return values [N,T]: at each action token the estimate from the state *before* it, and 0 elsewhere."""
        policy = self.held[0]
        if policy.head is not None:  # Values alone need no logits.
            return scatter(self.read(policy.states(rows)), rows.action)
        value = policy(rows, value_head=self.read).value
        assert isinstance(value, Tensor)
        return value

    def read(self, states: Tensor) -> Tensor:
        """Return the values [M] of hidden states [M,H]."""
        return scored(self.head, states).squeeze(-1)

    def read_detached(self, states: Tensor) -> Tensor:
        """Return the same values, whose gradient does not reach the policy."""
        return self.read(states.detach())

    def saves(self) -> str:
        """Say what a critic of its own, as large as the policy, would hold beside what is held now."""
        weights = sum(p.numel() for p in self.model.parameters())
        return (
            f"the critic is a head of {sum(p.numel() for p in self.parameters())} weights on the policy; a separate "
            f"one of its size would hold {weights * BYTES / 1e6:,.1f} MB more (weights, gradients, moments of AdamW)"
        )
