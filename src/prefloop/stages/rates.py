"""Learning rates for a model nobody has tuned yet: wide models want small ones.

`lr` falls with the model's width as (1024 / width) ** 1.75, through what is usual at width 1024 (0.5 B parameters) and
what worked at widths 64 to 192 here (docs/log.md), and is capped for the very small.
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar

from prefloop.config import Optimiser
from prefloop.stages.project import Project

Kind = Literal["sft", "reward", "policy", "critic"]
Settings = TypeVar("Settings", bound=Optimiser)

AT_1024: dict[Kind, float] = {"sft": 2e-5, "reward": 1.6e-5, "policy": 3e-6, "critic": 1.6e-5}
MOST: dict[Kind, float] = {"sft": 2e-3, "reward": 2e-3, "policy": 3e-4, "critic": 1e-3}


def learning_rate(kind: Kind, width: int) -> float:
    """Peak learning rate (AdamW, full fine-tuning) for a hidden size, to two digits."""
    return float(f"{min(MOST[kind], AT_1024[kind] * (1024 / width) ** 1.75):.1e}")


def with_rate(project: Project, settings: Settings, kind: Kind, model: Any) -> Settings:
    """The settings with a learning rate; one that was asked for stays. model: a transformers model."""
    if settings.lr is not None:
        return settings
    found = learning_rate(kind, width_of(model))
    project.say(
        f"learning rate {found:g}, for a model of width {width_of(model)}; --set ...lr=NUMBER to choose another"
    )
    return settings.model_copy(update={"lr": found})


def width_of(model: Any) -> int:
    """The hidden size of a transformers model, whatever its config calls it."""
    return int(model.config.get_text_config().hidden_size)
