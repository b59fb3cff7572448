"""Decides who gets which item next, by pure functions of (seed, names, counts). It keeps no state that could be lost.

Shares are exact by systematic sampling: with a share s, the k-th item of the sample is drawn from [k/s, (k+1)/s).
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from typing import TypeVar

BLOCK = 10  # The overlap sample is drawn exactly among so many items.

T = TypeVar("T")


def draw(seed: int, *names: object) -> random.Random:
    """Return a random generator for one purpose. The same names give the same numbers on every machine."""
    key = "\x1f".join(str(name) for name in (seed, *names))
    return random.Random(int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:16], "big"))


def overlaps(first: int, count: int, *, few: int, many: int, share: float, seed: int) -> list[int]:
    """Return how many people each of `count` items of the queue needs, from item number `first` on: `many` or `few`.

    A share of the items needs `many`: of any first N items it is N * share, within one a block. The seed decides which
    items of a block these are.
    """
    found: list[int] = []
    chosen: set[int] = set()
    for number in range(first, first + count):
        block, place = divmod(number, BLOCK)
        if not found or place == 0:
            offset = draw(seed, "overlap").random()  # A random offset gives small queues their share on average too.
            edges = [math.floor(BLOCK * share * b + offset) for b in (block, block + 1)]
            chosen = set(draw(seed, "overlap", block).sample(range(BLOCK), edges[1] - edges[0]))
        found.append(many if place in chosen else few)
    return found


def gold_due(taken: int, gold: int, share: float, seed: int, person: str) -> bool:
    """Return whether the next item should be gold, for a person who took `taken` items, of which `gold` were gold.

    One in each 1/share items is gold, at a place that nobody can foresee.
    """
    if share <= 0:
        return False
    return taken >= math.floor((gold + draw(seed, "gold", person, gold).random()) / share)


def wants_random(taken: int, share: float, seed: int, person: str) -> bool:
    """Return whether a fresh item comes from the random arm, which it does with probability `share`.

    Otherwise it is one of the most informative items.
    """
    return draw(seed, "arm", person, taken).random() < share


def shuffled(values: Sequence[T], seed: int, *names: object) -> tuple[T, ...]:
    """Return the values in the display order of one presentation, which the seed decides."""
    order = list(values)
    draw(seed, "shown", *names).shuffle(order)
    return tuple(order)
