"""Decides who gets which item next, by pure functions of (seed, names, counts). It keeps no state that could be lost.

Shares are exact by systematic sampling: with a share s, the k-th item of the sample is drawn from [k/s, (k+1)/s).
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from typing import TypeVar

BLOCK = 10  # items among which the overlap sample is drawn exactly

T = TypeVar("T")


def draw(seed: int, *names: object) -> random.Random:
    """A random generator for one purpose. The same names give the same numbers on every machine."""
    key = "\x1f".join(str(name) for name in (seed, *names))
    return random.Random(int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:16], "big"))


def overlaps(first: int, count: int, *, few: int, many: int, share: float, seed: int) -> list[int]:
    """How many people items number `first` to `first + count - 1` of the queue need: `many` for a share, else `few`.

    Of any first N items, N * share need `many`, within one a block; which of a block is drawn from the seed.
    """
    found: list[int] = []
    chosen: set[int] = set()
    for number in range(first, first + count):
        block, place = divmod(number, BLOCK)
        if not found or place == 0:
            offset = draw(seed, "overlap").random()  # so that small queues get their share on average
            edges = [math.floor(BLOCK * share * b + offset) for b in (block, block + 1)]
            chosen = set(draw(seed, "overlap", block).sample(range(BLOCK), edges[1] - edges[0]))
        found.append(many if place in chosen else few)
    return found


def gold_due(taken: int, gold: int, share: float, seed: int, person: str) -> bool:
    """Whether the next item should be gold, for a person who took `taken` items, `gold` of them gold.

    One in each 1/share items, at a place nobody can foresee.
    """
    if share <= 0:
        return False
    return taken >= math.floor((gold + draw(seed, "gold", person, gold).random()) / share)


def wants_random(taken: int, share: float, seed: int, person: str) -> bool:
    """Whether a fresh item comes from the random arm (with probability `share`) or is the most informative."""
    return draw(seed, "arm", person, taken).random() < share


def shuffled(values: Sequence[T], seed: int, *names: object) -> tuple[T, ...]:
    """Draw the display order of one presentation."""
    order = list(values)
    draw(seed, "shown", *names).shuffle(order)
    return tuple(order)
