"""Turns on gradient checkpointing (Chen 2016): the backward pass computes each layer again from its input."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from prefloop.errors import ConfigError


def checkpoint_layers(model: nn.Module, role: str) -> None:
    """Let the layers of a model keep only their input for the backward pass, while the model is in training mode.

    Raises ConfigError where the model has no layers that can do so.
    """
    layers = [part for part in model.modules() if isinstance(part, GradientCheckpointingLayer)]
    if not layers:
        raise ConfigError(
            f"gradient_checkpointing: the {role} model ({type(model).__name__}) has no layers "
            "that transformers can compute again. Set gradient_checkpointing = false, and lower token_budget."
        )
    for layer in layers:
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)


def is_checkpointed(model: nn.Module) -> bool:
    """Return whether a forward pass now keeps only the inputs of layers."""
    wanted = torch.is_grad_enabled() and model.training
    return wanted and any(getattr(part, "gradient_checkpointing", False) for part in model.modules())
