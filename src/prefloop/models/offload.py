"""Keeps frozen weights in the CPU's memory between uses (`[align] frozen_offload`), so that a GPU has room to learn.

A whole model is lent to the device, not one layer at a time: a pass then reads it at the device's own speed, and what
it costs is one copy for each use. Nothing is copied back, since frozen weights do not change.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def keep_on_cpu(model: nn.Module) -> None:
    """Move the weights of a model to the CPU, where there is a GPU into memory that it can copy from by itself."""
    model.cpu()
    if torch.cuda.is_available():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = tensor.data.pin_memory()


@contextmanager
def lent(device: str, *models: nn.Module) -> Iterator[None]:
    """Let copies on a device stand for the weights of models inside the block. They are let go after it."""
    kept: list[tuple[dict[str, Any], str, Tensor]] = []
    copies: dict[Tensor, Tensor] = {}  # A weight that two modules share has one copy.
    try:
        for module in (module for model in models for module in model.modules()):
            tensors: tuple[dict[str, Any], ...] = module._parameters, module._buffers
            for held in tensors:
                for name, tensor in held.items():
                    if tensor is not None:
                        if tensor not in copies:
                            copies[tensor] = _copied(tensor, device)
                        kept.append((held, name, tensor))
                        held[name] = copies[tensor]
        yield
    finally:
        for held, name, tensor in kept:
            held[name] = tensor


def _copied(tensor: Tensor, device: str) -> Tensor:
    there = tensor.detach().to(device, non_blocking=True)
    return nn.Parameter(there, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else there
