"""Compiled attention is attention: against every token's own softmax, one query at a time, in double precision."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from prefloop.kernels import native
from prefloop.kernels.attention import Heads, Rope, attention, plan

pytestmark = pytest.mark.skipif(not native.AVAILABLE, reason="no compiled code here: is there a C compiler?")
# These are the tokens of each prompt, and of the answers that continue it.
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


def hashed(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * np.uint32(0x846CA68B)
    return x ^ (x >> 16)


def counted(seed: int, query: int, keys: Sequence[int], share: float) -> Tensor:
    """Return how much the weight of each key counts with dropout: 0 for a share of them, for the others more."""
    with np.errstate(over="ignore"):
        start = hashed(np.uint32(seed) ^ hashed(np.array([query], dtype=np.uint32)))
        left_out = hashed(start + np.array(keys, dtype=np.uint32)) >> 8 < int(share * (1 << 24))
    return torch.from_numpy(np.where(left_out, 0.0, 1 / (1 - share)))


def one_by_one(
    vectors: Tensor,
    rope: Rope,
    heads: Heads,
    scaling: float,
    sees: Sequence[Sequence[int]],
    share: float = 0,
    seed: int = 0,
) -> Tensor:
    """Compute attention one query at a time. sees: the tokens that each token reads; share: of them whose weight is
    left out.
    """
    q, k, v = vectors.split((heads.query, heads.kv, heads.kv), dim=1)
    q, k = turned(q, *rope), turned(k, *rope)
    each = heads.query // heads.kv
    out = []
    for token, seen in enumerate(sees):
        for head in range(heads.query):
            keys, values = k[list(seen), head // each], v[list(seen), head // each]
            weights = (keys @ q[token, head] * scaling).softmax(0)
            out.append(weights * counted(seed, token * heads.query + head, seen, share) @ values)
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


@pytest.mark.parametrize("share", [0.0, 0.3], ids=["all", "dropout"])
@pytest.mark.parametrize("size", [6, 32, 40])
@pytest.mark.parametrize("heads", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_what_is_read_and_its_gradient_are_those_of_one_query_at_a_time(
    shape: tuple[list[int], list[int] | None], heads: Heads, size: int, share: float
) -> None:
    prompts, answers = shape
    sees = seen_by(prompts, answers)
    draw = torch.Generator().manual_seed(0)
    vectors = torch.randn(len(sees), heads.all, size, generator=draw, dtype=torch.float64).requires_grad_()
    angle = torch.randn(len(sees), 1, size // 2, generator=draw, dtype=torch.float64)
    rope, outward = (angle.cos(), angle.sin()), torch.randn(len(sees), heads.query * size, generator=draw).double()
    made = plan(heads, torch.tensor(prompts), None if answers is None else torch.tensor(answers))
    with torch.random.fork_rng():
        torch.manual_seed(5)
        seed = int(torch.randint(1 << 32, ()))
        theirs = one_by_one(vectors, rope, heads, 0.7, sees, share, seed)
        single = vectors.detach().float().requires_grad_()
        torch.manual_seed(5)
        ours = attention(single, (rope[0].float(), rope[1].float()), made, 0.7, share)
    assert torch.allclose(ours.double(), theirs, atol=1e-5)
    (our_slope,) = torch.autograd.grad(ours, single, outward.float())
    (their_slope,) = torch.autograd.grad(theirs, vectors, outward)
    assert their_slope.std() > 0.1 and torch.allclose(our_slope.double(), their_slope, atol=2e-5)


def test_dropout_leaves_out_its_share_of_the_weights_of_every_query_and_other_ones_each_time() -> None:
    tokens, size, share = 512, 32, 0.25
    vectors = torch.zeros(tokens, 3, size)
    vectors[:, 2] = torch.eye(tokens).unflatten(1, (-1, size)).sum(1)  # In the values 16 keys count for each number.
    rope, made = (
        (torch.ones(tokens, 1, size // 2), torch.zeros(tokens, 1, size // 2)),
        plan(Heads(1, 1), torch.tensor([tokens])),
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first, second = (attention(vectors, rope, made, 1.0, share) for _ in range(2))
        torch.manual_seed(0)
        again = attention(vectors, rope, made, 1.0, share)
    assert torch.equal(first, again) and not torch.equal(first, second)
    left = first.sum(1) * (1 - share)  # All keys weigh the same, so this is the share of them that counted.
    many = left[100:]
    assert abs(float(many.mean()) - (1 - share)) < 0.005
    spread = (share * (1 - share) / torch.arange(101, tokens + 1)).sqrt()  # This is the spread of so many coins.
    assert 0.85 < float(((many - (1 - share)) / spread).std()) < 1.15
    apart = torch.corrcoef(torch.stack([left[100:], second.sum(1)[100:]]))[0, 1]
    assert abs(float(apart)) < 0.15


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
    vectors, rope = torch.randn(6, 4, 6), (torch.ones(6, 1, 3), torch.zeros(6, 1, 3))
    before = vectors.clone()
    attention(vectors, rope, plan(Heads(2, 1), torch.tensor([6])), 1.0)
    assert torch.equal(vectors, before)
