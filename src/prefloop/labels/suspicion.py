"""Finds people whose rankings should be looked at, and says why. docs/annotators.md has the thresholds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from prefloop.labels.reliability import AnnotatorReliability
from prefloop.labels.tallies import Counted

FEWEST_RANKINGS = 10  # With fewer rankings only the annotator model and gold may suspect a person.
FEWEST_GOLD = 15  # in pairs
UPSIDE_DOWN_ERRORS = 2.0  # in standard errors
# A typical person has the weight 1. One standard error is enough, because the prior has pulled the weight towards 1
# already: with the usual overlap a person of half the usual sensitivity, who is not one to suspect, comes out between
# 0.6 and 1.
LOW_WEIGHT, LOW_ERRORS = 0.5, 1.0
CHANCE_ON_GOLD = 0.75  # This is compared with the upper end of the interval; a coin is right on half.
KEEPS_ORDER = 0.85  # This is compared with the lower end of the interval.
PICKS_LONGER = 0.90
USUALLY_LONGER = 0.85
TIES_ALL = 0.95
TOO_FAST = 0.25  # a share of the typical seconds for a word

Kind = Literal["upside down", "coin", "gold", "order shown", "length", "ties", "speed"]


@dataclass(frozen=True)
class Evidence:
    """Holds one reason to look at a person's rankings."""

    kind: Kind
    text: str


@dataclass(frozen=True)
class Figures:
    """Holds what is known about one person, or the medians over everybody."""

    reliability: AnnotatorReliability | None
    ties: Counted
    seconds: float | None
    seconds_per_word: float | None
    agreement: Counted
    gold: Counted
    earlier_first: Counted
    longer_first: Counted


def typical(people: Sequence[Figures]) -> Figures:
    """Return the medians over people, with which each person is compared."""

    def middle(shares: Sequence[Counted]) -> Counted:
        known = [s.share for s in shares if s.share is not None]
        return Counted(statistics.median(known) if known else None, None, None, sum(s.n for s in shares))

    def median(values: Sequence[float | None]) -> float | None:
        known = [v for v in values if v is not None]
        return statistics.median(known) if known else None

    return Figures(
        reliability=None,
        ties=middle([p.ties for p in people]),
        seconds=median([p.seconds for p in people]),
        seconds_per_word=median([p.seconds_per_word for p in people]),
        agreement=middle([p.agreement for p in people]),
        gold=middle([p.gold for p in people]),
        earlier_first=middle([p.earlier_first for p in people]),
        longer_first=middle([p.longer_first for p in people]),
    )


def suspect(person: Figures, everybody: Figures) -> tuple[Evidence, ...]:
    """Return the reasons to look at a person; there are none for nearly everybody."""
    assert person.reliability is not None
    found = [_by_weight(person.reliability, person.agreement, everybody.agreement), _by_gold(person.gold)]
    if person.reliability.rankings >= FEWEST_RANKINGS:
        found += [
            _by_order(person.earlier_first),
            _by_length(person.longer_first, everybody.longer_first),
            _by_ties(person.ties, everybody.ties),
            _by_speed(person, everybody),
        ]
    return tuple(evidence for evidence in found if evidence is not None)


def _by_weight(reliability: AnnotatorReliability, agreement: Counted, others: Counted) -> Evidence | None:
    if not reliability.known:
        return None
    weight = f"weight {reliability.weight:.2f} ± {reliability.weight_se:.2f} (1 is typical, 0 chance)"
    if agreement.share is not None and others.share is not None:
        weight += f", agrees on {agreement.share:.0%}, others on {others.share:.0%}"
    if reliability.weight + UPSIDE_DOWN_ERRORS * reliability.weight_se < 0:
        return Evidence("upside down", f"ranks the other way round from others: {weight}")
    if reliability.weight + LOW_ERRORS * reliability.weight_se < LOW_WEIGHT:
        return Evidence("coin", f"the order hardly follows others': {weight}")
    return None


def _by_gold(gold: Counted) -> Evidence | None:
    if gold.share is None or gold.high is None or gold.n < FEWEST_GOLD or gold.high >= CHANCE_ON_GOLD:
        return None
    return Evidence("gold", f"meets the expected answer on {gold.share:.0%} of {gold.n} gold pairs; chance is 50 %")


def _by_order(earlier: Counted) -> Evidence | None:
    if earlier.share is None or earlier.low is None or earlier.low <= KEEPS_ORDER:
        return None
    return Evidence("order shown", f"prefers the one shown earlier in {earlier.share:.0%} of {earlier.n} untied pairs")


def _by_length(longer: Counted, others: Counted) -> Evidence | None:
    if longer.share is None or longer.low is None or others.share is None or longer.low <= PICKS_LONGER:
        return None
    if others.share > USUALLY_LONGER:  # Here the longer text usually is the better one.
        return None
    return Evidence(
        "length",
        f"prefers the longer text in {longer.share:.0%} of {longer.n} untied pairs; others in {others.share:.0%}",
    )


def _by_ties(ties: Counted, others: Counted) -> Evidence | None:
    if ties.share is None or others.share is None or ties.share <= TIES_ALL or others.share > TIES_ALL / 2:
        return None
    return Evidence("ties", f"ties {ties.share:.0%} of {ties.n} pairs; others {others.share:.0%}")


def _by_speed(person: Figures, everybody: Figures) -> Evidence | None:
    mine, usual = person.seconds_per_word, everybody.seconds_per_word
    if mine is None or usual is None or person.seconds is None or everybody.seconds is None or mine >= TOO_FAST * usual:
        return None
    return Evidence(
        "speed",
        f"{person.seconds:.0f} s an item at the median, {mine / usual:.0%} of the usual time a word; "
        f"others take {everybody.seconds:.0f} s",
    )
