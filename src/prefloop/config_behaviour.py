"""The settings of `[behaviour]`: what must stay true of the policy's answers, beside the reference's."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from prefloop.config_section import Section

Bound = Annotated[float, Field(ge=0)]


class Behaviour(Section):
    """Checks of answers, policy against reference. docs/behaviour.md lists the built-in ones."""

    checks: tuple[str, ...] = Field((), description="built-in checks by name; none = all of them")
    functions: tuple[str, ...] = Field(
        (), description='your own checks, as "file.py:function" of (prompt, answer), beside the built-in ones'
    )
    max_drop: dict[str, Bound] | Bound = Field(
        default_factory=dict,
        description="check = the most that it may get worse by; a checkpoint that breaks this is not kept. One number "
        "is for every check that is a share and has a worse direction",
    )
    worse: dict[str, Literal["lower", "higher", "either"]] = Field(
        default_factory=dict, description="check = the direction that is worse, where it is not the usual one"
    )
    banned: tuple[str, ...] = Field((), description="regular expressions that no answer may match")
    required: tuple[str, ...] = Field((), description="regular expressions that every answer should match")
    slices: tuple[str, ...] = Field((), description="metadata fields of prompts; each of their values is looked at too")
    prompt_sets: dict[str, str] = Field(
        default_factory=dict, description="name = file of prompts that are asked beside the held-out ones"
    )
    set_prompts: int = Field(
        32, ge=0, description="prompts of each set that align asks at an evaluation; 0 = evaluate alone asks the sets"
    )
    time_limit: float = Field(10.0, gt=0, description="seconds that a function of yours may take for one answer")
