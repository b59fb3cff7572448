"""Models of a few numbers play policy, critic and reward: real modules, small enough for finite differences.

They are causal: what they say about a token depends on the tokens before it (and, for the reward, on itself), never on
padding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from prefloop.batch import PolicyOutput, RewardOutput, Rows

VOCAB, HIDDEN = 13, 6


class _Body(nn.Module):
    """Computes the state after each token: tanh of a running sum of embeddings."""

    def __init__(self, seed: int):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.embed = nn.Parameter(torch.randn(VOCAB, HIDDEN, generator=generator, dtype=torch.float64) * 0.4)
        self.head = nn.Parameter(torch.randn(VOCAB, HIDDEN, generator=generator, dtype=torch.float64) * 0.7)

    def states(self, rows: Rows) -> Tensor:
        ids = torch.where(rows.mask, rows.ids, torch.zeros_like(rows.ids))
        return torch.tanh(torch.where(rows.mask[..., None], self.embed[ids], 0.0).cumsum(1))

    def before(self, rows: Rows) -> Tensor:
        """Return the state before each token; outside the actions it is whatever is worst for a reader."""
        return torch.nn.functional.pad(self.states(rows), (0, 0, 1, 0))[:, :-1]


class ToyPolicy(_Body):
    def forward(self, rows: Rows) -> PolicyOutput:
        logp = torch.log_softmax(self.before(rows) @ self.head.T, -1)
        ids = torch.where(rows.mask, rows.ids, torch.zeros_like(rows.ids))
        own = logp.gather(-1, ids[..., None]).squeeze(-1)
        return PolicyOutput(_poisoned(own, rows.action))


class ToyCritic(_Body):
    def forward(self, rows: Rows) -> Tensor:
        return _poisoned(self.before(rows) @ self.head[0], rows.action)


class ToyReward(_Body):
    def forward(self, rows: Rows) -> RewardOutput:
        last = (rows.mask.sum(1) - 1).clamp(min=0)
        score = self.states(rows)[torch.arange(len(rows)), last] @ self.head[0]
        return RewardOutput(_poisoned(score, rows.mask.any(1)))


def _poisoned(x: Tensor, real: Tensor) -> Tensor:
    """Put NaN wherever nothing may be read."""
    return torch.where(real, x, torch.full_like(x, torch.nan))
