"""The running mean reward of each prompt: a baseline that needs no group and no critic, as it is known before a step.

It is part of every checkpoint. A prompt's mean follows its rewards at a rate of one over how often the prompt was
asked, and of at least `LEAST`, since the policy changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

LEAST = 0.1


@dataclass
class Baselines:
    """Holds for each prompt id its mean reward, and in how many steps it was asked."""

    known: dict[str, tuple[float, int]] = field(default_factory=dict)

    def of(self, prompts: Sequence[str], reward: Tensor) -> Tensor:
        """Return the mean of earlier rewards on each row's prompt [N].

        A prompt that was never asked has the mean of this batch's rewards.
        """
        usual = float(reward.mean())
        return torch.tensor([self.known.get(id, (usual, 0))[0] for id in prompts], dtype=reward.dtype)

    def see(self, prompts: Sequence[str], reward: Tensor) -> None:
        """Take in the rewards [N] of a step."""
        new: dict[str, list[float]] = {}
        for id, value in zip(prompts, reward.tolist(), strict=True):
            new.setdefault(id, []).append(value)
        for id, values in new.items():
            mean, times = self.known.get(id, (0.0, 0))
            rate = max(1 / (times + 1), LEAST)
            self.known[id] = mean + rate * (sum(values) / len(values) - mean), times + 1

    def state(self) -> dict[str, list[float]]:
        return {id: [mean, times] for id, (mean, times) in self.known.items()}

    @classmethod
    def restored(cls, state: Mapping[str, Sequence[float]]) -> Baselines:
        return cls({id: (float(mean), int(times)) for id, (mean, times) in state.items()})
