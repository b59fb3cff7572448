"""The settings of `[best_of]`: how many answers `prefloop best-of` draws, and what chooses among them."""

from __future__ import annotations

from pydantic import Field

from prefloop.config_section import Section


class BestOf(Section):
    """How `prefloop best-of` samples and chooses. Nothing is trained."""

    neutral = ("batch",)

    n: int = Field(16, ge=1, le=4096, description="answers that are drawn of each prompt, of which one is returned")
    scorer: str | None = Field(
        None,
        description='what chooses: "reward" (the newest reward models), the name of a scorer, "file.py:function" or '
        '"https://..."; none = [align] reward or the reward models, and with majority that every answer counts alike',
    )
    majority: str | None = Field(
        None,
        description='majority voting: a regular expression or "file.py:function" that finds the final answer in a text',
    )
    vote_temperature: float = Field(
        1.0, gt=0, description="a vote weighs exp(reward / this); large = all alike, small = the best answer decides"
    )
    temperature: float = Field(1.0, gt=0, description="sampling temperature")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus sampling; 1 = off")
    max_tokens: int = Field(128, ge=1, description="longest answer")
    limit: int | None = Field(None, ge=1, description="number of prompts; none = all")
    batch: int = Field(128, ge=1, description="rows sampled at once; changes speed, not results")
