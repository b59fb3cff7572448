"""Says whether a policy has collapsed, by signs in its answers that are compared with the reference's answers.

A policy can please a reward model by saying the same to everybody, by repeating itself, by never ending, or by going
where the reward model knows nothing. Each sign is compared with what the reference does on the same prompts, and never
with a fixed level alone: a closed task has few words and a small model repeats itself, and neither is a collapse.
`look` is a reason to read the answers. `collapsed` is far outside: such a step is not kept.

Figures are shares (0 to 1), nats or tokens, by the names that `align` logs and `evaluate` reports. A sign whose
figures are missing is left out.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Verdict = Literal["held", "look", "collapsed"]
Figures = Mapping[str, float]

# From Thai to Myanmar, Khmer, kana and Han these scripts are written without spaces, so every character counts as a
# word.
_NO_SPACES = (
    "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_WORD = re.compile(rf"[{_NO_SPACES}]|[^\s{_NO_SPACES}]+")
# "!!!!!!!!" and "hahahahahahahaha" are no words: they say one thing again and again.
_RUN = re.compile(r"(\S{1,8}?)\1{7,}")


@dataclass(frozen=True)
class Sign:
    """Holds one sign. name: that of the figure. said: what happened, to stand in the middle of a sentence."""

    name: str
    title: str
    verdict: Verdict
    before: float
    after: float
    said: str
    source: str


def signs(after: Figures, before: Figures) -> list[Sign]:
    """Return what a policy's figures (`after`) say beside those of the reference on the same prompts (`before`)."""
    return [sign for rule in _RULES if (sign := rule(after, before))]


def collapsed(*found: Sequence[Sign]) -> list[str]:
    """Return what has collapsed, each sign once where there are several comparisons; [] where nothing has."""
    return list({s.name: s.said for some in reversed(found) for s in some if s.verdict == "collapsed"}.values())


# -- figures of texts ------------------------------------------------------------------------------------------------


def text_figures(draws: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return figures of the variety of answers.

    draws: one answer a prompt in each; a figure is the mean over the draws

    So a figure does not depend on how many answers a prompt has been given, and a policy that is sure of its answer to
    each prompt does not look like one that gives the same answer to all.
    """
    figures = {
        **{f"distinct_{n}": [distinct(texts, n) for texts in draws] for n in (1, 2, 3)},
        "repetition": [repetition(texts) for texts in draws],
        "commonest": [commonest(texts) for texts in draws],
    }
    return {name: float(np.mean(values)) for name, values in figures.items()}


def words(text: str) -> list[str]:
    """Return lower-case words, split at white space.

    In scripts without spaces each character is a word, and so is each character of a run of one thing.
    """
    return _WORD.findall(_RUN.sub(lambda run: f" {run[1]} " * (len(run[0]) // len(run[1])), text.lower()))


def distinct(texts: Sequence[str], n: int) -> float:
    """Return the share of different n-grams among all n-grams of the texts (Li 2016); low means alike answers."""
    grams = [gram for text in texts for gram in _grams(text, n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def repetition(texts: Sequence[str]) -> float:
    """Return the share of word pairs that an answer had said before (seq-rep-2, Welleck 2019), mean over texts."""
    pairs = [_grams(text, 2) for text in texts]
    return float(np.mean([1 - len(set(some)) / len(some) if some else 0.0 for some in pairs] or [0.0]))


def commonest(texts: Sequence[str]) -> float:
    """Return the share of the texts that are the most frequent one, case and white space aside."""
    return max(Counter(" ".join(words(text)) for text in texts).values(), default=0) / max(1, len(texts))


def _grams(text: str, n: int) -> list[tuple[str, ...]]:
    said = words(text)
    return [tuple(said[i : i + n]) for i in range(len(said) - n + 1)]


# -- rules -----------------------------------------------------------------------------------------------------------

OURS = "our rule, from runs in docs/log.md"


def _verdict(look: bool, gone: bool) -> Verdict:
    return "collapsed" if gone else "look" if look else "held"


def _variety(after: Figures, before: Figures) -> Sign | None:
    """Judge the word pairs of all answers together. Answers of single words have none; `_same` judges those."""
    a, b = after.get("distinct_2"), before.get("distinct_2")
    if a is None or b is None or not b:
        return None
    verdict = _verdict(a < 0.75 * b, 0 < a < 0.15 * b)
    said = f"different word pairs are {a:.0%} of all, the reference's {b:.0%}" if a else "no answer has two words"
    return Sign("distinct_2", "Different word pairs", verdict, b, a, said, OURS)


def _repeats(after: Figures, before: Figures) -> Sign | None:
    a, b = after.get("repetition"), before.get("repetition")
    if a is None or b is None:
        return None
    verdict = _verdict(a > b + 0.15, a > b + 0.5)
    said = f"{a:.0%} of an answer's word pairs repeat what it said before, in the reference's {b:.0%}"
    return Sign("repetition", "Repetition inside an answer", verdict, b, a, said, OURS)


def _same(after: Figures, before: Figures) -> Sign | None:
    """Judge whether every prompt gets one answer. A closed question may have few answers, as the reference shows."""
    a, b = after.get("commonest"), before.get("commonest")
    if a is None or b is None:
        return None
    verdict = _verdict(a > 2 * b and _more(a, b, after, before), a > 0.8 and b < 0.4 and _more(a, b, after, before))
    said = f"{a:.0%} of the answers are one and the same text, of the reference's {b:.0%}"
    return Sign("commonest", "Answers that are one and the same", verdict, b, a, said, OURS)


def _ends(after: Figures, before: Figures) -> Sign | None:
    a, b = after.get("ended"), before.get("ended")
    if a is None or b is None:
        return None
    fewer = _more(b, a, before, after)
    verdict = _verdict(a < b - 0.05 and fewer, a < 0.2 and a < 0.5 * b and fewer)
    said = f"only {a:.0%} of the answers end by themselves, of the reference's {b:.0%}"
    return Sign("ended", "Finished answers", verdict, b, a, said, "axolotl: over 80 % truncated is red")


def _entropy(after: Figures, before: Figures) -> Sign | None:
    a, b = after.get("entropy"), before.get("entropy")
    if a is None or b is None:
        return None
    verdict = _verdict(a < 0.1 and a < 0.5 * b, a < 0.01 and a < 0.1 * b)
    said = f"entropy is {a:.3g} nats a token, the reference's {b:.3g}"
    source = "axolotl: under 0.01 is red; community rule: 0.1"
    return Sign("entropy", "Entropy, nats a token", verdict, b, a, said, source)


def _distance(after: Figures, before: Figures) -> Sign | None:
    """Judge the distance, of a sequence and of a token, because a long answer moves far by a little at every token.

    It is read at temperature 1 where answers were sampled at another one: any two distributions are farther apart when
    cooler. The default budget is 25 nats a sequence, and over-optimised runs began at 50; 1 nat a token is twice what
    is healthy.
    """
    kl, length = after.get("kl_at_1", after.get("kl")), after.get("length")
    if kl is None or not length:
        return None
    each = kl / length
    verdict = _verdict(kl > 50 or (kl > 25 and each > 1), (kl > 50 and each > 1) or (kl > 25 and each > 2))
    said = f"it is far from the reference, KL {kl:.0f} nats a sequence, {each:.1f} a token"
    source = (
        "N+ 2024: runs at 50 and 85 a sequence were over-optimised; axolotl: 0 to 0.5 a token is healthy, over 2 red"
    )
    return Sign("kl", "Distance moved (KL, nats)", verdict, before.get("kl", 0.0), kl, said, source)


def _more(high: float, low: float, of_high: Figures, of_low: Figures) -> bool:
    """Return whether one share is larger than another beyond chance (two proportions, 2.5 standard errors)."""
    n, m = of_high.get("sequences", 64.0), of_low.get("sequences", 64.0)
    pooled = (n * high + m * low) / (n + m)
    return high - low > 2.5 * math.sqrt(max(pooled * (1 - pooled), 1e-12) * (1 / n + 1 / m))


_RULES: tuple[Callable[[Figures, Figures], Sign | None], ...] = (
    _variety,
    _repeats,
    _same,
    _ends,
    _entropy,
    _distance,
)
