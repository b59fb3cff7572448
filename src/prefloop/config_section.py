"""What every section of prefloop.toml is: a frozen model, in which an unknown key is an error."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from prefloop.errors import ConfigError

TOKEN_BUDGET = 8192
SCORED = 4  # Without a gradient so many times the tokens fit into a pass.


def number_or_auto(value: Any, least: int, what: str) -> Any:
    """Return a setting that is a whole number or "auto". Raises ValueError."""
    if value != "auto" and (type(value) is not int or value < least):
        raise ValueError(f'it is {what} from {least} on, or "auto" (got {value!r})')
    return value


class Section(BaseModel):
    """One table of prefloop.toml."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    neutral: ClassVar[tuple[str, ...]] = ()  # These settings change speed, memory or safety, and no result.

    def deciding(self) -> dict[str, Any]:
        """Return the settings that decide a stage's outcome, by name: all, with the neutral ones at their defaults.

        Those of a part, as `[align.rollout]`, stand among them: a name is used once in a section and its parts.
        """
        found: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            value = field.default if name in self.neutral else getattr(self, name)
            found |= value.deciding() if isinstance(value, Section) else {name: value}
        return found


class Optimiser(Section):
    """Settings that every training stage shares."""

    neutral: ClassVar[tuple[str, ...]] = ("token_budget", "gradient_checkpointing", "checkpoint_every")

    lr: float | None = Field(None, gt=0, description="peak learning rate (AdamW); none = by the model's width")
    warmup: float = Field(0.05, ge=0, le=1, description="share of steps with a rising learning rate")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description='after the warm-up: "cosine", "linear" or "constant"'
    )
    optim: Literal["adamw", "adamw_8bit"] = Field(
        "adamw", description='"adamw", or "adamw_8bit": moments in 2 bytes a weight, not 8 (the extra "bitsandbytes")'
    )
    weight_decay: float = Field(0.0, ge=0, description="weight decay of AdamW")
    clip_norm: float = Field(1.0, gt=0, description="the gradient's global norm is clipped to this")
    token_budget: int | Literal["auto"] = Field(
        TOKEN_BUDGET,
        description='padded tokens in one forward pass, or "auto": as many as fit; changes speed, not results',
    )
    gradient_checkpointing: bool = Field(
        False, description="compute each layer again in the backward pass: less memory, about a third more time"
    )

    @field_validator("token_budget", mode="before")
    @classmethod
    def _is_a_number_or_auto(cls, value: Any) -> Any:
        return number_or_auto(value, 64, "a number of tokens")

    @property
    def usual_budget(self) -> int:
        """Return token_budget, and the usual one where an engine that trains has to find it."""
        return TOKEN_BUDGET if self.token_budget == "auto" else self.token_budget

    @property
    def scored_budget(self) -> int:
        """Return the tokens of a pass without a gradient."""
        return SCORED * self.usual_budget

    def refuse_pieces(self, section: str = "") -> None:
        """Raise ConfigError where these settings cannot train models that ranks hold in pieces."""
        if self.optim == "adamw_8bit":
            raise ConfigError(
                f'{section and f"[{section}] "}optim = "adamw_8bit" needs whole tensors, and ranks hold models that '
                'learn in pieces. Set optim = "adamw", of which each rank keeps a piece, or [project] ranks = 1, or '
                '[model] adapter = "lora".'
            )

    def deciding(self) -> dict[str, Any]:
        found = super().deciding()
        # Runs of versions without these settings are still the same runs.
        del found["gradient_checkpointing"]
        if found["optim"] == "adamw":
            del found["optim"]
        return found
