"""Scorers that are a rule, a user's Python function or an HTTP service.

They are for simulated crowds, independent checks, experiments, and rewards that no reward model gives.
"""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from prefloop.errors import ConfigError, DataError, PrefloopError, suggest
from prefloop.rewards.base import Scores
from prefloop.rewards.service import Service, is_address
from prefloop.types import Completion, Prompt, digest
from prefloop.user_functions import load_function

BatchFunction = Callable[[Sequence[Prompt], Sequence[str]], Sequence[float]]

POSITIVE = frozenset(
    [
        "amazing",
        "beautiful",
        "best",
        "better",
        "brave",
        "bright",
        "cheerful",
        "clever",
        "cozy",
        "dear",
        "delicious",
        "delight",
        "delighted",
        "easy",
        "enjoy",
        "enjoyed",
        "excellent",
        "excited",
        "fantastic",
        "favorite",
        "fine",
        "friend",
        "friends",
        "friendly",
        "fun",
        "funny",
        "gentle",
        "giggled",
        "glad",
        "good",
        "grateful",
        "great",
        "happily",
        "happy",
        "helped",
        "helpful",
        "hug",
        "hugged",
        "joy",
        "kind",
        "laugh",
        "laughed",
        "laughing",
        "love",
        "loved",
        "lovely",
        "loves",
        "lucky",
        "magic",
        "magical",
        "nice",
        "perfect",
        "play",
        "played",
        "playing",
        "pleased",
        "pretty",
        "proud",
        "safe",
        "shared",
        "shiny",
        "smile",
        "smiled",
        "smiling",
        "special",
        "strong",
        "sunny",
        "sweet",
        "thank",
        "thankful",
        "thanked",
        "warm",
        "welcome",
        "wonderful",
        "wow",
        "yummy",
    ]
)
NEGATIVE = frozenset(
    [
        "afraid",
        "alone",
        "angry",
        "awful",
        "bad",
        "blamed",
        "boring",
        "broke",
        "broken",
        "cold",
        "cried",
        "cry",
        "crying",
        "cruel",
        "danger",
        "dangerous",
        "dark",
        "dead",
        "died",
        "dirty",
        "dull",
        "empty",
        "fail",
        "failed",
        "fear",
        "fell",
        "fight",
        "frightened",
        "grumpy",
        "hate",
        "hated",
        "hit",
        "horrible",
        "hungry",
        "hurt",
        "ill",
        "jealous",
        "lazy",
        "lonely",
        "lost",
        "mad",
        "mean",
        "mess",
        "missed",
        "naughty",
        "nasty",
        "no",
        "nothing",
        "pain",
        "poor",
        "rude",
        "sad",
        "sadly",
        "scared",
        "scary",
        "scream",
        "screamed",
        "shout",
        "shouted",
        "sick",
        "sorry",
        "stole",
        "terrible",
        "tired",
        "ugly",
        "unhappy",
        "upset",
        "weak",
        "worried",
        "worry",
        "worse",
        "worst",
        "wrong",
        "yelled",
    ]
)


def _positive(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[float]:
    """Return ten times the share of positive less the share of negative words, a sentiment signal without a model."""
    values = []
    for text in texts:
        words = re.findall(r"[a-z']+", text.lower())
        net = sum(w in POSITIVE for w in words) - sum(w in NEGATIVE for w in words)
        values.append(10.0 * net / max(10, len(words)))
    return values


NAMED: dict[str, tuple[str, BatchFunction | str]] = {
    "positive": ("share of positive minus negative words", _positive),
    "length": ("characters: longer is better", lambda prompts, texts: [float(len(t)) for t in texts]),
    "brevity": ("characters: shorter is better", lambda prompts, texts: [-float(len(t)) for t in texts]),
    "demo": ("true quality in the built-in customer-support scenario", "prefloop.demo.quality:score"),
}


class RuleScorer:
    """Scores by a function of texts. `identity` changes when the user's file changes."""

    def __init__(self, name: str, function: BatchFunction, identity: str = ""):
        self.name = name
        self.function = function
        self.identity = identity or name

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Scores:
        """Return the function's value for each completion.

        Raises DataError if it fails or returns something not finite.
        """
        try:
            values = [float(v) for v in self.function(prompts, [c.text for c in completions])]
        except PrefloopError:  # It says itself what to do.
            raise
        except Exception as error:
            raise DataError(f"scorer {self.name} failed: {type(error).__name__}: {error}") from error
        if len(values) != len(completions):
            raise DataError(f"scorer {self.name} gave {len(values)} numbers for {len(completions)} completions")
        for prompt, completion, value in zip(prompts, completions, values, strict=True):
            if not math.isfinite(value):
                raise DataError(
                    f"scorer {self.name} gave {value} for completion {completion.id}, {_row(prompt, completion.text)}. "
                    "It has to give a finite number for every answer."
                )
        return Scores(values)


def make_scorer(spec: str, root: Path) -> RuleScorer:
    """Return a scorer by name, by the address of a service, or from `file.py:function`.

    The function is called as `function(prompt: str, completion: str) -> float`. Raises ConfigError for an unknown name,
    a malformed address, a missing file or a missing function. A service is not asked yet. Relative files are
    looked for in the project folder, then in the current one.
    """
    if is_address(spec):
        return RuleScorer(spec, Service(spec).score)
    if ":" not in spec:
        if spec not in NAMED:
            raise ConfigError(
                f'There is no scorer "{spec}".{suggest(spec, list(NAMED))} Or give your own as "file.py:function", '
                'or the address of a service as "https://host/path".'
            )
        target = NAMED[spec][1]
        return RuleScorer(spec, _import(target) if isinstance(target, str) else target)
    function, path = load_function(spec, root, "scorer")
    return RuleScorer(spec, _of_each(spec, function), identity=digest(spec, path.read_text(encoding="utf-8")))


def _of_each(spec: str, function: Callable[[str, str], Any]) -> BatchFunction:
    """Return a user's function of one answer as one of many. Where it fails, the DataError names the row."""

    def values(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[float]:
        found = []
        for prompt, text in zip(prompts, texts, strict=True):
            try:
                value = function(prompt.text, text)
            except PrefloopError:
                raise
            except Exception as error:
                why = f"{type(error).__name__}: {error}"
                raise DataError(f"scorer {spec} failed on {_row(prompt, text)}: {why}") from error
            if not hasattr(value, "__float__"):
                raise DataError(f"scorer {spec} returned {value!r:.80}, which is no number, for {_row(prompt, text)}")
            found.append(float(value))
        return found

    return values


def _row(prompt: Prompt, text: str) -> str:
    asked, said = (repr(t if len(t) <= 80 else f"{t[:79]}…") for t in (prompt.text, text))
    return f"prompt {asked}, answer {said}"


def _import(target: str) -> Any:
    module, name = target.split(":")
    return getattr(importlib.import_module(module), name)
