"""People get the next items in exact shares, at places that nobody can foresee, and the same everywhere."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefloop.labels.assign import draw, gold_due, overlaps, shuffled, wants_random

SEEDS = st.integers(0, 2**31)


def test_draws_are_the_same_on_every_machine_and_differ_by_name() -> None:
    assert draw(1, "arm", "p-1", 5).random() == pytest.approx(0.5981741616944384, abs=0)
    assert draw(1, "ab", "c").random() != draw(1, "a", "bc").random()
    assert draw(1, "x").random() != draw(2, "x").random()


@given(SEEDS, st.sampled_from([0.0, 0.05, 0.15, 0.3, 0.5, 1.0]), st.integers(1, 40))
def test_whole_blocks_hold_their_share_exactly(seed: int, share: float, blocks: int) -> None:
    found = Counter(overlaps(0, blocks * 10, few=1, many=3, share=share, seed=seed))
    assert abs(found[3] - share * blocks * 10) < 1
    assert found[1] + found[3] == blocks * 10


@given(SEEDS, st.lists(st.integers(0, 17), max_size=8))
def test_overlaps_do_not_depend_on_how_the_items_arrive(seed: int, sizes: list[int]) -> None:
    parts, first = [], 0
    for size in sizes:
        parts += overlaps(first, size, few=1, many=3, share=0.3, seed=seed)
        first += size
    assert parts == overlaps(0, first, few=1, many=3, share=0.3, seed=seed)


def test_which_items_of_a_block_overlap_changes_from_block_to_block() -> None:
    found = overlaps(0, 200, few=1, many=3, share=0.3, seed=1)
    assert len({tuple(found[at : at + 10]) for at in range(0, 200, 10)}) > 10


@given(SEEDS, st.sampled_from([0.05, 0.1, 0.2, 0.5]), st.integers(1, 400))
def test_gold_keeps_its_share_of_a_persons_items(seed: int, share: float, number: int) -> None:
    gold = 0
    for taken in range(number):
        gold += gold_due(taken, gold, share, seed, "p-1")
    assert number * share - 1 <= gold <= number * share + 1


def test_gold_comes_at_places_that_differ_between_people_and_never_without_a_share() -> None:
    def places(person: str) -> list[int]:
        found: list[int] = []
        for taken in range(100):
            if gold_due(taken, len(found), 0.1, 3, person):
                found.append(taken)
        return found

    assert places("p-1") != places("p-2")
    assert len({b - a for a, b in zip(places("p-1"), places("p-1")[1:], strict=False)}) > 3
    assert not any(gold_due(taken, 0, 0.0, 3, "p-1") for taken in range(100))


def test_the_random_arm_has_its_share() -> None:
    hits = sum(wants_random(taken, 0.2, 5, "p-1") for taken in range(5000))
    assert abs(hits - 1000) < 4 * (5000 * 0.2 * 0.8) ** 0.5
    assert all(wants_random(taken, 1.0, 5, "p-1") for taken in range(50))


def test_every_order_is_shown_equally_often() -> None:
    found = Counter(shuffled("abc", 1, "p-1", f"item {n}") for n in range(6000))
    assert len(found) == 6 and all(abs(count - 1000) < 4 * (6000 * 5 / 36) ** 0.5 for count in found.values())
    assert shuffled("abc", 1, "p-1", "item 7") == shuffled("abc", 1, "p-1", "item 7")
