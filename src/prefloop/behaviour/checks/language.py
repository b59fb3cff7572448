"""Checks of the language of answers: its script, the language itself, and how easy it is to read."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import cache

from prefloop.behaviour.english import OTHER, is_other
from prefloop.behaviour.registry import Pair, Unfit, check

ENOUGH = 20  # letters, below which nobody can tell a language
# Japanese mixes these, and the name of a character does not say "Japanese".
_TOGETHER = {"HIRAGANA": "CJK", "KATAKANA": "CJK", "KATAKANA-HIRAGANA": "CJK", "FULLWIDTH": "LATIN"}


@check("script", "share", "lower", "letters of an answer in a script (Latin, Cyrillic, Han, ...) of its prompt")
def script(pair: Pair) -> float | None:
    asked, said = _scripts(pair.prompt), _scripts(pair.answer)
    return sum(one in set(asked) for one in said) / len(said) if asked and said else None


def _scripts(text: str) -> list[str]:
    """The script of each letter, as the first word of its Unicode name."""
    found = (unicodedata.name(letter, "").partition(" ")[0] for letter in text if letter.isalpha())
    return [_TOGETHER.get(name, name) for name in found if name]


@check(
    "language",
    "share",
    "lower",
    "answers in the language of their prompt, as py3langid knows it (`pip install 'prefloop[language]'`)",
)
def language(pair: Pair) -> float | None:
    classify = _classifier()
    if classify is None or min(len(_scripts(pair.prompt)), len(_scripts(pair.answer))) < ENOUGH:
        return None
    return float(classify(pair.prompt)[0] == classify(pair.answer)[0])


@cache
def _classifier() -> Callable[[str], tuple[str, float]] | None:
    """What knows languages; None where it is not installed."""
    try:
        import py3langid
    except ImportError:
        return None
    classify: Callable[[str], tuple[str, float]] = py3langid.classify
    return classify


@check("reading_ease", "points", "lower", "reading ease of English (Flesch 1948): 60 is plain, below 30 is hard")
def reading_ease(pair: Pair) -> float | None | Unfit:
    """206.835 - 1.015 words a sentence - 84.6 syllables a word; between 0 and 121.22, which very odd texts leave."""
    said = re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)?", pair.answer)
    if len(said) < 3:
        return None
    if is_other(pair.answer):
        return Unfit(OTHER)
    sentences = max(1, len(re.findall(r"[.!?…]+(?:\s|$)", pair.answer.strip())))
    syllables = sum(_syllables(word) for word in said)
    return min(121.22, max(0.0, 206.835 - 1.015 * len(said) / sentences - 84.6 * syllables / len(said)))


def _syllables(word: str) -> int:
    """Groups of vowels, without a silent e at the end: right for nine in ten English words."""
    groups = len(re.findall(r"[aeiouy]+", word.lower()))
    silent = re.search(r"[^aeiouyl]e$|[^aeiouy][^aeiouytd]ed$", word.lower()) is not None
    return max(1, groups - silent)
