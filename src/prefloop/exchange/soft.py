"""Estimates how likely people are to prefer one completion to another: a soft label for each pair of an item.

It uses only the votes. If w of n people prefer it (a tie counts half), the label is (w + 1/2) / (n + 1), the mean of
the posterior under Jeffreys' prior. One vote gives 0.75, three of three give 0.875; no number of votes gives 0 or 1.
Who the people are does not matter here. `labels.reliability` gives the same table from its model of annotators.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from prefloop.types import Item, Ranking

# The keys are (item, criterion) -> {(better, worse): probability}; either order of a pair may be given.
Soft = Callable[[Item, str], Mapping[tuple[str, str], float]]


@dataclass(frozen=True)
class Votes:
    """Counts the people who placed both of two completions.

    `won`: how many placed the first higher; a tie counts half.
    """

    won: float
    judges: int

    @property
    def probability(self) -> float:
        return (self.won + 0.5) / (self.judges + 1)


def votes(rankings: Sequence[Ranking], first: str, second: str) -> Votes:
    """Return the votes for each pair, from rankings of one item by one criterion. Each ranking counts."""
    won, judges = 0.0, 0
    for ranking in rankings:
        place = {key: tier for tier, keys in enumerate(ranking.tiers) for key in keys}
        if first in place and second in place:
            gap = place[second] - place[first]
            won += 0.5 if gap == 0 else float(gap > 0)
            judges += 1
    return Votes(won, judges)


def look_up(table: Mapping[tuple[str, str], float], better: str, worse: str) -> float | None:
    """Return the probability of a pair in either order; None if the table does not have it."""
    if (better, worse) in table:
        return table[better, worse]
    turned = table.get((worse, better))
    return None if turned is None else 1 - turned
