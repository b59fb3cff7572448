"""Says whether people can be told apart at all, by who ranked the same items and how often.

Where two people differ, nothing says which of them is right; a third person or an expected answer is needed. About 20
independent comparisons tell a coin-flipper from somebody who is right nine times in ten: with the line at 15 right of
20, the errors are 2 % and 1 %. With 10 comparisons they are 5 to 7 %.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from prefloop.labels.votes import Floats, Votes, pairs_of, worth_in_pairs

ENOUGH_SHARED = 20.0  # in independent comparisons
FEWEST_PEOPLE = 3


@dataclass(frozen=True)
class Overlap:
    """Says what people share, and whether that is enough to tell them apart.

    shared: [A] independent comparisons on items that somebody else (or gold) judged
    known:  [A] whether the person can be told from a coin-flipper
    enough: whether people can be told apart; if not, `reason` says why in words
    """

    shared: Floats
    known: NDArray[np.bool_]
    enough: bool
    reason: str | None


def overlap(votes: Votes) -> Overlap:
    """Count what people share.

    A person is known with `ENOUGH_SHARED` comparisons in a group of three, or in one with gold.
    """
    count = len(votes.annotators)
    shared = _shared(votes)
    if count == 0:
        return Overlap(shared, shared >= 1, False, "nobody has ranked anything yet")
    group = _groups(votes)
    people_in = np.bincount(group[:count], minlength=int(group.max()) + 1)
    checked = people_in >= FEWEST_PEOPLE
    if votes.has_gold:
        checked[group[-1]] = True
    known = (shared >= ENOUGH_SHARED) & checked[group[:count]]
    reason = _reason(votes, shared, known, group, people_in)
    return Overlap(shared, known, reason is None, reason)


def _shared(votes: Votes) -> Floats:
    """Return [A]: the worth in pairs of each person's rankings of items that two people judged; a tie has none."""
    pairs = pairs_of(votes)
    untied = np.bincount(pairs.ranking, ~pairs.tie, len(votes.person)) / np.bincount(pairs.ranking)
    judges = np.bincount(_unique_votes(votes)[1], minlength=len(votes.items))
    placed = votes.placed
    worth = np.array([worth_in_pairs(n) for n in range(int(placed.max(initial=0)) + 1)])[placed]
    every = np.bincount(votes.person, worth * untied * (judges[votes.ranking_item] >= 2), len(votes.people))
    return np.asarray(every[: len(votes.annotators)], dtype=np.float64)


def _unique_votes(votes: Votes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return each (person, item) once, because a second ranking by the same person does not come from somebody else."""
    pairs = np.unique(np.stack([votes.person, votes.ranking_item], axis=1), axis=0)
    return pairs[:, 0], pairs[:, 1]


def _groups(votes: Votes) -> NDArray[np.int64]:
    """Return [A(+1 for gold)]: which connected part of the graph of people and items each person is in."""
    person, item = _unique_votes(votes)
    size = len(votes.people) + len(votes.items)
    graph = coo_array((np.ones(len(person)), (person, item + len(votes.people))), shape=(size, size))
    return np.asarray(connected_components(graph, directed=False)[1][: len(votes.people)], dtype=np.int64)


def _reason(
    votes: Votes,
    shared: Floats,
    known: NDArray[np.bool_],
    group: NDArray[np.int64],
    people_in: NDArray[np.int64],
) -> str | None:
    """Return the reason why people cannot be told apart; None where they can."""
    count = len(votes.annotators)
    if not shared.any():
        return (
            "every item was ranked by one person only: there is nobody to compare anybody with. "
            "Let several people rank the same items ([annotate] overlap_share), or add gold items"
        )
    if not votes.has_gold and int(people_in.max()) < FEWEST_PEOPLE:
        return f"{count} people: where two differ, nothing says which of them is right. It takes a third, or gold items"
    if not known.any():
        return (
            f"the most anybody shares with others is {shared.max():.0f} independent comparisons; about "
            f"{ENOUGH_SHARED:.0f} are needed to tell a coin-flipper from a careful person"
        )
    apart = len(np.unique(group[:count][known]))
    if apart > 1:
        return (
            f"people fall into {apart} groups that never ranked the same items: weights of different groups cannot be "
            "compared. Let somebody rank items of both"
        )
    return None
