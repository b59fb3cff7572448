"""Compiled products and draws agree with torch's own, at sizes that fill no panel and no block."""

from __future__ import annotations

import ctypes
import math

import pytest
import torch

from prefloop.engine.decoding import sampler
from prefloop.kernels import native

pytestmark = pytest.mark.skipif(not native.AVAILABLE, reason="native.c was not compiled here: is there a C compiler?")


@pytest.mark.parametrize("rows", [1, 2, 5, 6, 7, 24, 25, 61])
@pytest.mark.parametrize(("wide", "out"), [(1, 1), (17, 31), (64, 32), (33, 100)])
def test_products_are_those_of_torch(rows: int, wide: int, out: int) -> None:
    draw = torch.Generator().manual_seed(rows)
    x, weight, bias = (torch.randn(*shape, generator=draw) for shape in ((rows, wide), (out, wide), (out,)))
    for b in (None, bias):
        found = native.times(x, native.Panels(weight, b))
        assert torch.allclose(
            found,
            torch.nn.functional.linear(x.double(), weight.double(), b if b is None else b.double()).float(),
            atol=1e-5,
        )
    assert torch.equal(
        native.times(x.t().contiguous().t(), native.Panels(weight)), native.times(x, native.Panels(weight))
    )


@pytest.mark.parametrize(
    ("rows", "wide", "out"), [(55, 2048, 205), (55, 2049, 205), (55, 6157, 205), (1100, 1030, 520), (1100, 40, 205)]
)
def test_large_products_are_added_up_in_parts_with_their_bias_once(rows: int, wide: int, out: int) -> None:
    """The sizes lie on both sides of native.c's DEPTH, LARGE and PART; the last panels are few, and not whole."""
    draw = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=draw) for shape in ((rows, wide), (out, wide), (out,)))
    found = native.times(x, native.Panels(weight, bias))
    expected = torch.nn.functional.linear(x.double(), weight.double(), bias.double())
    assert torch.allclose(found.double(), expected, atol=2e-3)


def test_a_struct_that_c_lays_out_otherwise_is_named() -> None:
    """Addresses at other places would be read as numbers, and the process would end or the results be wrong."""

    class Longer(ctypes.Structure):
        _fields_ = [*native.PackedRows._fields_, ("more", ctypes.c_int64)]

    class Shorter(ctypes.Structure):
        _fields_ = native.Tokens._fields_[:-1]

    def other(name: str, struct: type[ctypes.Structure]) -> str | None:
        return native.other_layout(native._library, {**native.STRUCTS, name: struct})

    assert native.other_layout(native._library, native.STRUCTS) is None
    assert other("layout_of_rows", Longer) == "Longer"
    assert other("layout_of_tokens", Shorter) == "Shorter"
    assert other("layout_of_layer", native.Body) == "Body"


def slow(logits: torch.Tensor, u: torch.Tensor, temperature: float) -> tuple[list[int], list[float]]:
    """Draw by cumulative sums in double precision."""
    p = torch.softmax(logits.double() / temperature, -1)
    ids = torch.searchsorted(p.cumsum(-1), u[:, None]).squeeze(1)
    return ids.tolist(), p.gather(1, ids[:, None]).squeeze(1).log().tolist()


@pytest.mark.parametrize("words", [1, 5, 64, 65, 1000, 5003])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_a_word_is_drawn_where_u_lies(words: int, temperature: float) -> None:
    draw = torch.Generator().manual_seed(words)
    logits, u = 4 * torch.randn(400, words, generator=draw), torch.rand(400, generator=draw, dtype=torch.float64)
    ids, logp = native.draw(logits, u, temperature)
    expected, log = slow(logits, u, temperature)
    differing = [n for n in range(400) if ids[n] != expected[n]]
    assert len(differing) <= 1, "rounding may move a place across an edge, seldom"
    assert all(abs(float(logp[n]) - log[n]) < 5e-6 for n in range(400) if n not in differing)


def test_words_of_no_probability_are_never_drawn() -> None:
    logits = torch.full((6, 200), -math.inf)
    logits[:, 70] = 0.0
    logits[3:, 130] = -50.0
    u = torch.tensor([1e-300, 0.5, 1 - 1e-16] * 2, dtype=torch.float64)
    ids, logp = native.draw(logits, u, 1.0)
    assert ids[:5].tolist() == [70] * 5 and ids[5] in (70, 130)
    assert logp[:5].abs().max() == 0


def test_a_place_at_the_very_end_is_a_word_that_has_some_probability() -> None:
    """Sums of blocks and of their words round differently: the last place may lie beyond the last word."""
    logits = torch.randn(2000, 64, generator=torch.Generator().manual_seed(0))
    logits[:, 40:] = -math.inf
    ids, logp = native.draw(logits, torch.full((2000,), 1 - 1e-16, dtype=torch.float64), 1.0)
    assert (ids < 40).all() and logp.isfinite().all()


def test_what_is_not_a_number_shows_in_the_log_probability() -> None:
    logits = torch.zeros(3, 100)
    logits[0, 3], logits[1] = math.nan, math.inf
    ids, logp = native.draw(logits, torch.full((3,), 0.5, dtype=torch.float64), 1.0)
    assert logp.isnan().tolist() == [True, True, False]
    assert ((ids >= 0) & (ids < 100)).all()
    assert float(logp[2]) == pytest.approx(-math.log(100), abs=1e-6)


def test_the_sampler_draws_the_same_with_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(0)
    logits, u = 3 * torch.randn(500, 1024, generator=draw), torch.rand(500, generator=draw, dtype=torch.float64)
    ids, logp = sampler.choose(logits, u, 1.0, 1.0)
    monkeypatch.setattr(native, "AVAILABLE", False)
    again, log = sampler.choose(logits, u, 1.0, 1.0)
    same = ids == again
    assert (~same).sum() <= 1 and torch.allclose(logp[same], log[same], atol=5e-6)


class Elsewhere(torch.Tensor):
    """Stands for a sharded tensor: a subclass whose numbers need not stand at its address."""


@pytest.mark.parametrize(
    ("tensor", "advice"),
    [
        (torch.ones(3).as_subclass(Elsewhere), "Elsewhere.*full_tensor"),
        (torch.ones(3).to_sparse(), "sparse.*to_dense"),
        (torch.ones(3).bfloat16(), "bfloat16.*float"),
        (torch.ones(3, device="meta"), "meta.*cpu"),
        (torch.ones(3, 2).t(), "contiguous"),
    ],
)
def test_what_compiled_code_would_misread_is_refused_with_what_to_do(tensor: torch.Tensor, advice: str) -> None:
    with pytest.raises(TypeError, match=advice):
        native.address(tensor)


def test_a_subclass_of_tensor_is_computed_by_torch_and_never_packed() -> None:
    weight = torch.randn(4, 3).as_subclass(Elsewhere)
    assert native.fits(torch.ones(3)) and not native.fits(weight)
    with pytest.raises(TypeError, match="Elsewhere"):
        native.Panels(weight)
