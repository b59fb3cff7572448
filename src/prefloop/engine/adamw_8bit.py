"""Is AdamW with moments of 8 bits (Dettmers 2022), computed by bitsandbytes on CPUs and GPUs.

256 numbers of a moment share one scale, and each of them is a place in a table of 256 values (its code book).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from prefloop.models.without_hub import needs_bitsandbytes

BLOCK = 256  # numbers that share a scale, in all of the library's kernels
SMALLEST = 4096  # Moments of tensors with fewer numbers stay in float32, as in the library's own optimiser.
PIECE = 1 << 20  # numbers that move at a time: on a CPU the library makes float32 copies of them


class AdamW8bit(torch.optim.Optimizer):
    """Makes the steps of AdamW on float32 weights. Its state is tensors, which `load_state_dict` takes as they are.

    On a CPU a step of bitsandbytes' own optimiser takes five times the memory of the largest tensor. This one gives the
    library a piece of a tensor at a time, and comes to the same bits.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, eps: float, weight_decay: float):
        self.by = needs_bitsandbytes('optim = "adamw_8bit"').functional
        signed = {"exp_avg": True, "exp_avg_sq": False}
        self.qmaps: dict[str, Tensor] = {name: self.by.create_dynamic_map(signed=yes) for name, yes in signed.items()}
        super().__init__(params, {"lr": lr, "betas": (0.9, 0.999), "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._move(weight, weight.grad, group)

    def _move(self, weight: Tensor, grad: Tensor, group: Mapping[str, Any]) -> None:
        state = self.state[weight]
        if not state:
            state.update(self._blank(weight))
        state["step"] += 1
        how = {name: group[name] for name in ("lr", "eps", "weight_decay")} | {"step": int(state["step"])}
        how |= {"optimizer_name": "adam", "beta1": group["betas"][0], "beta2": group["betas"][1]}
        tensors = {"g": grad.reshape(-1), "p": weight.view(-1)}
        tensors |= {"state1": state["exp_avg"].view(-1), "state2": state["exp_avg_sq"].view(-1)}
        for first in range(0, weight.numel(), PIECE):
            some = {name: x[first : first + PIECE] for name, x in tensors.items()}
            if weight.numel() < SMALLEST:
                self.by.optimizer_update_32bit(**some, **how)
                continue
            scales = slice(first // BLOCK, (first + PIECE) // BLOCK)
            for n, name in enumerate(self.qmaps, 1):
                some |= {f"absmax{n}": state[f"{name}_absmax"][scales], f"qmap{n}": state[f"{name}_qmap"]}
            self.by.optimizer_update_8bit_blockwise(**some, **how, beta3=0.0, alpha=0.0)

    def _blank(self, weight: Tensor) -> dict[str, Tensor]:
        """Return the state of a weight that was never moved."""
        found: dict[str, Tensor] = {"step": torch.zeros(())}
        small = weight.numel() < SMALLEST
        for name, qmap in self.qmaps.items():
            found[name] = torch.zeros(weight.shape, dtype=torch.float32 if small else torch.uint8, device=weight.device)
            if not small:
                found[f"{name}_absmax"] = torch.zeros(-(-weight.numel() // BLOCK), device=weight.device)
                found[f"{name}_qmap"] = qmap.to(weight.device)
        return found

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the tensors of a state. Torch would make all of them float32."""
        weights = [weight for group in self.param_groups for weight in group["params"]]
        found: Any = defaultdict(dict)
        for number, kept in state_dict["state"].items():
            device = weights[number].device
            found[weights[number]] = {name: x if name == "step" else x.to(device) for name, x in kept.items()}
        self.state = found
