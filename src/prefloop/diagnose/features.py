"""Surface features of answers, and how much of a gain in reward each explains.

A feature's worth is estimated within prompts: rewards and features are taken as differences from the prompt's own mean
before the regression, so that easy prompts do not count as good features. What a feature explains is its worth times
how far it moved between the first and the last samples of a run.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from prefloop.diagnose.collapse import repetition, words
from prefloop.diagnose.records import Array, RunRecord, Sample

LEAST = 24  # samples in the first and in the last part of a run
PHRASE = 3  # words

_LIST = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s", re.MULTILINE)
_SORRY = re.compile(r"\b(?:i can(?:no|')t|i'm sorry|i am sorry|unable to|as an ai)\b", re.IGNORECASE)

LENGTH = "length in tokens"
CLOSELY = 0.88  # correlation of reward and feature within prompts

FEATURES: dict[str, Callable[[Sample], float]] = {
    LENGTH: lambda s: float(s.length),
    "repetition": lambda s: repetition([s.text]),
    "exclamation marks": lambda s: float(s.text.count("!")),
    "question marks": lambda s: float(s.text.count("?")),
    "digits": lambda s: float(sum(c.isdigit() for c in s.text)),
    "capital letters": lambda s: float(sum(c.isupper() for c in s.text)) / max(1, len(s.text)),
    "list items": lambda s: float(len(_LIST.findall(s.text))),
    "characters that are no letters": lambda s: (
        sum(not (c.isalpha() or c.isspace()) for c in s.text) / max(1, len(s.text))
    ),
    "refusals and apologies": lambda s: float(bool(_SORRY.search(s.text))),
    "ends by itself": lambda s: float(s.ended),
    "words of the prompt": lambda s: _copied(s),
}


@dataclass(frozen=True)
class Explained:
    """Holds a feature that moved. share: of the gain in reward that it explains; 1 is all of it."""

    feature: str
    before: float
    after: float
    share: float
    correlation: float
    since: int | None


@dataclass(frozen=True)
class Jackpot:
    """Holds a phrase. worth: how much more its answers score than others to the same prompt, in spreads of the first
    answers without it.  before, after: share of answers with it."""

    phrase: str
    worth: float
    before: float
    after: float
    since: int | None


def _copied(sample: Sample) -> float:
    asked, said = set(words(sample.prompt)), words(sample.text)
    return sum(word in asked for word in said) / max(1, len(said))


def _parts(samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]] | None:
    """Return the first and the last quarter of the steps that have samples; None where there are too few."""
    steps = sorted({s.step for s in samples})
    if len(steps) < 2:
        return None
    n = max(1, len(steps) // 4)
    first, last = set(steps[:n]), set(steps[-n:])
    before, after = [s for s in samples if s.step in first], [s for s in samples if s.step in last]
    return (before, after) if min(len(before), len(after)) >= LEAST else None


def within(samples: Sequence[Sample], values: Array) -> Array:
    """Return values as differences from the mean of their prompt [N]; 0 for a prompt with one sample."""
    groups: dict[str, list[int]] = {}
    for place, sample in enumerate(samples):
        groups.setdefault(sample.prompt, []).append(place)
    out = np.zeros(len(values))
    for places in groups.values():
        out[places] = values[places] - values[places].mean()
    return out


def explained(samples: Sequence[Sample]) -> Explained | None:
    """Return the feature that explains most of the gain in reward; None where no reward was gained or nothing moved.

    A rule and three causes ask it of the same samples: it goes through them once.
    """
    return _explained(tuple(samples))


@lru_cache(maxsize=2)
def _explained(samples: tuple[Sample, ...]) -> Explained | None:
    parts = _parts(samples)
    if parts is None:
        return None
    before, after = parts
    rewards = np.array([s.reward for s in samples])
    gain = float(np.mean([s.reward for s in after]) - np.mean([s.reward for s in before]))
    if gain <= 0.25 * max(float(np.std([s.reward for s in before])), 1e-9):
        return None
    reward = within(samples, rewards)
    best: Explained | None = None
    for name, of in FEATURES.items():
        values = np.array([of(s) for s in samples])
        x = within(samples, values)
        if not x.any() or not reward.any():
            continue
        slope, r = float(x @ reward / (x @ x)), float(np.corrcoef(x, reward)[0, 1])
        first, last = float(np.mean([of(s) for s in before])), float(np.mean([of(s) for s in after]))
        spread = float(np.std([of(s) for s in before]))
        if abs(last - first) < 0.5 * max(spread, 1e-9) or abs(r) < 0.25:
            continue
        found = Explained(name, first, last, slope * (last - first) / gain, r, _first_moved(samples, of, first, last))
        if best is None or found.share > best.share:
            best = found
    return best


def followed(run: RunRecord) -> str | None:
    """Return the feature that the reward follows closely within prompts, and that moved; None where there is none."""
    found = explained(run.samples)
    return found.feature if found is not None and found.correlation > CLOSELY else None


def jackpot(samples: Sequence[Sample]) -> Jackpot | None:
    """Return the phrase that is worth most, where it is worth more than two spreads and has become frequent."""
    parts = _parts(samples)
    if parts is None:
        return None
    before, after = parts
    phrases = Counter(p for s in after for p in _phrases(s))
    said = [_phrases(s) for s in before]
    rewards = np.array([s.reward for s in samples])
    early = np.array([s.reward for s in before])
    have = [_phrases(s) for s in samples]
    best: Jackpot | None = None
    # sets have no order of their own: equal counts, and later equal worths, are decided by the phrase
    frequent = sorted(phrases.items(), key=lambda pair: (-pair[1], -len(pair[0]), pair[0]))[:200]
    for phrase, count in frequent:
        share, earlier = count / len(after), sum(phrase in some for some in said) / len(before)
        if share < 0.2 or share < earlier + 0.15 or earlier > 0.4:  # what most answers had is no find of the policy
            continue
        holds = np.array([phrase in some for some in have])
        without = early[[phrase not in some for some in said]]
        gap = _gap(samples, rewards, holds)
        if gap is None or len(without) < 8:
            continue
        worth = gap / max(float(without.std()), 1e-9)
        if worth > 2 and (best is None or worth > best.worth + 1e-9):
            best = Jackpot(phrase, worth, earlier, share, _first_phrase(samples, holds))
    return best


def _gap(samples: Sequence[Sample], rewards: Array, holds: np.ndarray) -> float | None:
    """Return how much more answers with the phrase score than others to the same prompt; None for under 6 prompts.

    Prompts whose answers all have it, or all lack it, say nothing of its worth.
    """
    groups: dict[str, list[int]] = {}
    for place, sample in enumerate(samples):
        groups.setdefault(sample.prompt, []).append(place)
    gaps = []
    for places in groups.values():
        has, of = holds[places], rewards[places]
        if has.any() and not has.all():
            gaps.append(float(of[has].mean() - of[~has].mean()))
    return float(np.mean(gaps)) if len(gaps) >= 6 else None


def _phrases(sample: Sample) -> set[str]:
    said = words(sample.text)
    return {" ".join(said[n : n + size]) for size in (1, PHRASE) for n in range(len(said) - size + 1)}


def _first_moved(samples: Sequence[Sample], of: Callable[[Sample], float], first: float, last: float) -> int | None:
    """Return the first step at which the feature has moved half of its way."""
    by_step: dict[int, list[float]] = {}
    for sample in samples:
        by_step.setdefault(sample.step, []).append(of(sample))
    half = 0.5 * (first + last)
    for step in sorted(by_step):
        if (np.mean(by_step[step]) - half) * (last - first) > 0:
            return step
    return None


def _first_phrase(samples: Sequence[Sample], holds: np.ndarray) -> int | None:
    by_step: dict[int, list[bool]] = {}
    for sample, has in zip(samples, holds, strict=True):
        by_step.setdefault(sample.step, []).append(bool(has))
    return next((step for step in sorted(by_step) if np.mean(by_step[step]) > 0.2), None)
