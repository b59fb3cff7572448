"""Compiled attention is attention: against every token's own softmax, one query at a time, in double precision."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from prefloop.ops import native
from prefloop.ops.attention import Heads, Turn, attention, plan

pytestmark = pytest.mark.skipif(not native.AVAILABLE, reason="no compiled code here: is there a C compiler?")
# tokens of each prompt, and of the answers that go on from it
SHAPES: dict[str, tuple[list[int], list[int] | None]] = {
    "rows": ([5, 1, 9, 3], None),
    "one row": ([7], None),
    "lists": ([4, 9, 2], [3, 1, 6, 2, 2, 8]),
    "an empty answer": ([4, 9], [3, 0, 6, 5]),
    "no answer at all": ([4, 9], [0, 0]),
    "far apart": ([2, 40, 3, 39], [1, 30, 2, 2, 31, 30, 4, 29]),
    "more keys than are held at one time": ([150, 3], [131, 5]),
}
HEADS = {"as many keys": Heads(2, 2), "shared keys": Heads(4, 2), "one key": Heads(3, 1)}


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def one_by_one(vectors: Tensor, turn: Turn, heads: Heads, scaling: float, sees: Sequence[Sequence[int]]) -> Tensor:
    """sees: the tokens that each token reads."""
    q, k, v = vectors.split((heads.asking, heads.groups, heads.groups), dim=1)
    q, k = turned(q, *turn), turned(k, *turn)
    each = heads.asking // heads.groups
    out = []
    for token, seen in enumerate(sees):
        for head in range(heads.asking):
            keys, values = k[list(seen), head // each], v[list(seen), head // each]
            out.append((keys @ q[token, head] * scaling).softmax(0) @ values)
    return torch.stack(out).view(len(sees), -1)


def seen_by(prompts: Sequence[int], answers: Sequence[int] | None) -> list[list[int]]:
    sees: list[list[int]] = []
    starts = []
    for length in prompts:
        starts.append(len(sees))
        sees += [list(range(starts[-1], starts[-1] + n + 1)) for n in range(length)]
    for number, length in enumerate(answers or []):
        owner = number * len(prompts) // len(answers or [])
        before = list(range(starts[owner], starts[owner] + prompts[owner]))
        first = len(sees)
        sees += [[*before, *range(first, first + n + 1)] for n in range(length)]
    return sees


@pytest.mark.parametrize("size", [6, 32, 40])
@pytest.mark.parametrize("heads", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_what_is_read_and_its_gradient_are_those_of_one_query_at_a_time(
    shape: tuple[list[int], list[int] | None], heads: Heads, size: int
) -> None:
    prompts, answers = shape
    sees = seen_by(prompts, answers)
    draw = torch.Generator().manual_seed(0)
    vectors = torch.randn(len(sees), heads.all, size, generator=draw, dtype=torch.float64).requires_grad_()
    angle = torch.randn(len(sees), 1, size // 2, generator=draw, dtype=torch.float64)
    turn, outward = (angle.cos(), angle.sin()), torch.randn(len(sees), heads.asking * size, generator=draw).double()
    made = plan(heads, torch.tensor(prompts), None if answers is None else torch.tensor(answers))
    theirs = one_by_one(vectors, turn, heads, 0.7, sees)
    single = vectors.detach().float().requires_grad_()
    ours = attention(single, (turn[0].float(), turn[1].float()), made, 0.7)
    assert torch.allclose(ours.double(), theirs, atol=1e-5)
    (our_slope,) = torch.autograd.grad(ours, single, outward.float())
    (their_slope,) = torch.autograd.grad(theirs, vectors, outward)
    assert their_slope.std() > 0.1 and torch.allclose(our_slope.double(), their_slope, atol=2e-5)


def test_the_number_of_threads_changes_no_bit() -> None:
    found = []
    before = torch.get_num_threads()
    for threads in (1, 3):
        torch.set_num_threads(threads)
        try:
            vectors = torch.randn(97, 6, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
            angle = torch.arange(97.0)[:, None, None] * torch.ones(1, 16)
            made = plan(Heads(2, 2), torch.tensor([20, 7]), torch.tensor([10, 30, 20, 10]))
            out = attention(vectors, (angle.cos(), angle.sin()), made, 0.2)
            (slope,) = torch.autograd.grad(out.square().sum(), vectors)
            found.append(torch.cat([out.flatten(), slope.flatten()]))
        finally:
            torch.set_num_threads(before)
    assert torch.equal(*found)


def test_nothing_that_was_given_is_changed() -> None:
    vectors, turn = torch.randn(6, 4, 6), (torch.ones(6, 1, 3), torch.zeros(6, 1, 3))
    before = vectors.clone()
    attention(vectors, turn, plan(Heads(2, 1), torch.tensor([6])), 1.0)
    assert torch.equal(vectors, before)
