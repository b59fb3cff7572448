"""A reference that follows the policy (TR-DPO, Gorbatovski 2024), beside the one that stays where the round began.

The penalty is measured from it. What evaluations report as KL, and what a budget counts, is measured from the other.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from prefloop.errors import TrainingError
from prefloop.kernels.plain import whole
from prefloop.models.lora import of_adapter

LOW = (torch.bfloat16, torch.float16)


class Refreshed:
    """Moves the weights of a model towards those of the policy that learns. Its state is in every checkpoint.

    Where the model is in low precision, float32 weights are moved, and the model holds these rounded: a small step
    would be lost in eight bits.
    """

    def __init__(self, model: nn.Module):
        found = dict(model.named_parameters())
        adapter = {name: p for name, p in found.items() if of_adapter(name)}
        self.parameters = adapter or found  # What an adapter stands on never moves.
        self.weights = {n: p.detach().float() if p.dtype in LOW else p for n, p in self.parameters.items()}

    @torch.no_grad()
    def move(self, policy: Mapping[str, Tensor], keep: float) -> None:
        """Make it `keep` parts of itself and 1 - `keep` parts of the policy."""
        self._check(policy)
        for name, weight in self.weights.items():
            weight.lerp_(whole(policy[name]).to(weight.dtype), 1 - keep)
        self._round()

    def state(self) -> dict[str, Tensor]:
        return {name: weight.detach() for name, weight in self.weights.items()}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        for name, weight in self.weights.items():
            weight.copy_(tensors[name])
        self._round()

    def _round(self) -> None:
        for name, parameter in self.parameters.items():
            if self.weights[name] is not parameter:
                parameter.copy_(self.weights[name])

    def _check(self, policy: Mapping[str, Tensor]) -> None:
        """Raise TrainingError where the policy is a model of another shape."""
        ours, theirs = ({n: tuple(t.shape) for n, t in some.items()} for some in (self.weights, policy))
        if different := sorted(dict(ours.items() ^ theirs.items())):
            raise TrainingError(
                f"the reference cannot follow the policy, which is a model of another shape: {different[0]} is "
                f"{ours.get(different[0])} in the one and {theirs.get(different[0])} in the other. "
                "Set [align] reference_refresh = 0."
            )
