"""Packed lists are exact, and small where the numbers allow it."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefloop.errors import DataError
from prefloop.store.mapping import pack_floats, pack_ints, unpack


@given(st.lists(st.integers(-(2**63), 2**63 - 1)).map(tuple))
def test_ids_come_back_exactly(ids: tuple[int, ...]) -> None:
    assert unpack(pack_ints(ids)) == ids


@given(st.lists(st.floats()).map(tuple))
def test_floats_come_back_to_the_last_bit(values: tuple[float, ...]) -> None:
    found = unpack(pack_floats(values))
    assert found is not None
    assert struct.pack(f"{len(values)}d", *found) == struct.pack(f"{len(values)}d", *values)


def test_a_token_takes_two_bytes_and_a_32_bit_logprob_four() -> None:
    assert len(pack_ints(range(1000)) or b"") == 1 + 2 * 1000
    assert len(pack_ints([70_000] * 1000) or b"") == 1 + 4 * 1000
    assert len(pack_floats([-0.25] * 1000) or b"") == 1 + 4 * 1000
    assert len(pack_floats([-0.1] * 1000) or b"") == 1 + 8 * 1000


def test_nothing_and_an_empty_list_stay_apart() -> None:
    assert unpack(pack_ints(None)) is None and unpack(pack_floats(None)) is None
    assert unpack(pack_ints(())) == () and unpack(pack_floats(())) == ()


def test_a_number_beyond_64_bits_is_refused() -> None:
    with pytest.raises(DataError, match="token ids"):
        pack_ints([2**64])


def test_bytes_are_the_same_on_every_machine() -> None:
    assert pack_ints([1, 258]) == b"H\x01\x00\x02\x01"
    assert pack_floats([-0.5]) == b"f\x00\x00\x00\xbf"
