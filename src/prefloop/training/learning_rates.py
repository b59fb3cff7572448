"""Chooses default learning rates by the width of a model: a wider model needs a smaller rate.

The rate falls as (1024 / width) ** 1.75. That curve goes through what is usual at width 1024 (0.5 B parameters) and
what worked at width 64 here (docs/log.md). For very small models the rate is capped. An adapter wants ten times as
much, whatever its rank (Schulman 2025).
"""

from __future__ import annotations

from typing import Any, Literal

from prefloop.models.lora import has_adapter, rank_of
from prefloop.project.project import Project

Kind = Literal["sft", "reward", "policy", "critic"]

AT_1024: dict[Kind, float] = {"sft": 2e-5, "reward": 1.6e-5, "policy": 3e-6, "critic": 1.6e-5}
MOST: dict[Kind, float] = {"sft": 2e-3, "reward": 2e-3, "policy": 3e-4, "critic": 1e-3}
OF_ADAPTERS = 10.0


def learning_rate(kind: Kind, width: int) -> float:
    """Return the peak learning rate of AdamW in full fine-tuning for a hidden size, rounded to two digits."""
    return float(f"{min(MOST[kind], AT_1024[kind] * (1024 / width) ** 1.75):.1e}")


def usual(kind: Kind, model: Any) -> float:
    """Return the default of a model: that of its width, and `OF_ADAPTERS` times as much for an adapter."""
    found = learning_rate(kind, int(model.config.get_text_config().hidden_size))
    return float(f"{found * OF_ADAPTERS:.1e}") if has_adapter(model) else found


def rate(project: Project, asked: float | None, kind: Kind, model: Any) -> float:
    """Return the rate that the settings ask for, or else the default of the model's width, which is then printed."""
    rank, set_to = rank_of(model), project.config.model.lora.rank
    if rank and rank != set_to:
        project.say(
            f"warning: [model.lora] rank = {set_to} is for new adapters; the {kind} goes on with one of rank {rank}"
        )
    if asked is not None:
        return asked
    width, found = int(model.config.get_text_config().hidden_size), usual(kind, model)
    what = f"an adapter of rank {rank} of a model" if rank else "a model"
    project.say(f"learning rate of the {kind}: {found:g}, for {what} of width {width}; set lr to choose another")
    return found


def beside_usual(kind: Kind, lr: float, model: Any) -> dict[str, float]:
    """A rate beside the default of the model's width, for the run's manifest: {"asked", "usual"}."""
    return {"asked": lr, "usual": usual(kind, model)}
