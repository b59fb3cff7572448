"""Turns a caller's own Python functions into scorers and annotators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from prefloop.errors import ConfigError
from prefloop.rewards.rules import RuleScorer
from prefloop.rewards.service import Service
from prefloop.source import source_hash


@runtime_checkable
class BatchScorer(Protocol):
    """Scores many texts in one call, as `load_reward_model` gives one and as a client of a server would."""

    def score(self, prompts: Sequence[Any], texts: Sequence[str]) -> Sequence[float]:
        """Return one number for each text as an answer to the prompt in the same place; higher is better.

        A prompt is a `prefloop.types.Prompt`; its `text` is what a function gets.
        """
        ...


ScoreFunction = Callable[[str, str], float] | BatchScorer


def as_scorer(function: ScoreFunction, name: str | None = None) -> RuleScorer:
    """Return a function (prompt, completion) -> number, or an object with `score(prompts, texts)`, as a scorer.

    name: what settings and manifests call it; by default the function's own. Raises ConfigError where it is neither.
    """
    if isinstance(function, Service):  # It is the same scorer as its address in prefloop.toml.
        return RuleScorer(function.url, function.score)
    name = name or str(getattr(function, "name", None) or getattr(function, "__name__", type(function).__name__))
    if ":" in name:
        raise ConfigError(f'the name "{name}" has a colon, which is for "file.py:function". Give it another name.')
    identity = source_hash(function)
    if isinstance(function, BatchScorer):
        batch = function
        return RuleScorer(name, lambda prompts, texts: batch.score(prompts, texts), identity)
    if not callable(function):
        raise ConfigError(
            f"{function!r} cannot score: give a function of (prompt, completion), or an object with score(...)"
        )
    one = function
    return RuleScorer(
        name, lambda prompts, texts: [one(p.text, t) for p, t in zip(prompts, texts, strict=True)], identity
    )
