"""Checks of the shape of answers: how long they are, whether they end, how far they repeat themselves or each other."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from prefloop.behaviour.registry import Pair, check, check_together
from prefloop.diagnose.collapse import repetition as repeated
from prefloop.diagnose.collapse import words

COPIED = 4  # Fewer words in a row than these are shared by chance and by quoting a name.


@check("length", "words", "either", "words of an answer", relative=True)
def length(pair: Pair) -> float:
    return float(len(words(pair.answer)))


@check_together(
    "length_spread",
    "words",
    "lower",
    "how far the length of an answer is from the median of all, in words (as in the test of Brown and Forsythe)",
    relative=True,
)
def length_spread(pairs: Sequence[Pair]) -> list[float]:
    lengths = np.array([len(words(pair.answer)) for pair in pairs], dtype=float)
    return [float(v) for v in np.abs(lengths - np.median(lengths))]


@check("ended", "share", "lower", "answers that end by themselves, and are not cut off")
def ended(pair: Pair) -> float | None:
    return None if pair.ended is None else float(pair.ended)


@check("empty", "share", "higher", "answers without any word")
def empty(pair: Pair) -> float:
    return float(re.search(r"\w", pair.answer) is None)


@check("repetition", "share", "higher", "word pairs of an answer that it had said before (seq-rep-2, Welleck 2019)")
def repetition(pair: Pair) -> float | None:
    return repeated([pair.answer]) if len(words(pair.answer)) > 2 else None


@check("copies_prompt", "share", "higher", "runs of four words of an answer that stand in the prompt")
def copies_prompt(pair: Pair) -> float | None:
    said = _runs(pair.answer, COPIED)
    asked = set(_runs(pair.prompt, COPIED))
    return float(np.mean([run in asked for run in said])) if said else None


@check_together("distinct_1", "share", "lower", "different words among all words of the answers (Li 2016)")
def distinct_1(pairs: Sequence[Pair]) -> list[float | None]:
    return _distinct(pairs, 1)


@check_together("distinct_2", "share", "lower", "different word pairs among all word pairs of the answers (Li 2016)")
def distinct_2(pairs: Sequence[Pair]) -> list[float | None]:
    return _distinct(pairs, 2)


def _distinct(pairs: Sequence[Pair], n: int) -> list[float | None]:
    """What each answer adds to distinct-n: an n-gram that all answers together say m times counts 1/m each time.

    The sum over all n-grams is the number of different ones, so that the mean over n-grams is distinct-n. Here each
    answer counts once, however long it is.
    """
    said = [_runs(pair.answer, n) for pair in pairs]
    times = Counter(run for runs in said for run in runs)
    return [float(np.mean([1 / times[run] for run in runs])) if runs else None for runs in said]


def _runs(text: str, n: int) -> list[tuple[str, ...]]:
    said = words(text)
    return [tuple(said[i : i + n]) for i in range(len(said) - n + 1)]
