"""Lists of ids become tensors and are cut into parts: nothing is lost or twice there, lists stay whole, padding is
little.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from prefloop.batch import ListRows, RankingBatch, RolloutBatch, Rows, as_lists, collate, collate_rankings
from prefloop.types import Ranking


def ragged(n: int = 30, seed: int = 0) -> Rows:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 40, n)
    return collate([[i + 1, *range(100, 99 + int(t))] for i, t in enumerate(lengths)], [1] * n)


def ranked_lists() -> RankingBatch:
    ids = [["a", "b", "c"], ["a", "b"]]
    said = [[Ranking("i", "w", "q", (("b",), ("a", "c")))], [Ranking("j", "w", "q", (("a",), ("b",)))]]
    lists = [[([1, 2, 3], 1), ([4, 5], 1), ([6] * 9, 2)], [([7, 8], 1), ([9], 1)]]
    return collate_rankings(lists, ids, said)


def test_sequences_are_padded_on_the_right_and_the_completion_is_marked() -> None:
    rows = collate([[5, 6, 7], [8, 9]], [1, 2])
    assert rows.ids.tolist() == [[5, 6, 7], [8, 9, 0]]
    assert rows.mask.tolist() == [[True, True, True], [True, True, False]]
    assert rows.action.tolist() == [[False, True, True], [False, False, False]]
    assert len(collate([], [])) == 0


def test_positions_count_real_tokens_wherever_the_padding_is() -> None:
    mask = torch.tensor([[False, False, True, True], [True, True, False, False]])
    assert Rows(mask.long(), mask, mask).positions.tolist() == [[0, 0, 0, 1], [0, 1, 1, 1]]


@pytest.mark.parametrize("budget", [64, 100, 500, 10**6])
def test_parts_hold_every_row_once_within_the_budget_and_as_few_as_it_takes(budget: int) -> None:
    rows = ragged()
    parts = list(rows.split(budget))
    assert sorted(int(i) for part in parts for i in part.ids[:, 0]) == list(range(1, 31))
    for part in parts:
        assert part.ids.numel() <= budget
        assert part.ids.shape[1] == int(part.mask.sum(1).max())  # It is trimmed to its longest row.
    for part, following in zip(parts, parts[1:], strict=False):
        assert (len(part) + 1) * part.ids.shape[1] > budget  # One more row would not have fitted.
        assert following.ids.shape[1] <= part.ids.shape[1]  # Rows of like length come together.
    for part in parts:
        for n in range(len(part)):
            source = int(part.ids[n, 0]) - 1
            assert part.ids[n][part.mask[n]].tolist() == rows.ids[source][rows.mask[source]].tolist()


def test_a_row_larger_than_the_budget_is_a_part_of_its_own() -> None:
    parts = list(collate([[1] * 100, [2] * 3, [3] * 3], [1, 1, 1]).split(64))
    assert [len(p) for p in parts] == [1, 2]


@pytest.mark.parametrize("budget, sizes", [(10_000, [30]), (320, [6, 9, 15]), (100, [2, 1, 2, 1, 3, 3, 6, 9, 3])])
def test_rows_of_one_list_stay_together_and_are_parted_only_where_they_alone_are_too_much(
    budget: int, sizes: list[int]
) -> None:
    lengths = [n for n, of in ((10, 9), (45, 6), (12, 6), (30, 6), (11, 3)) for _ in range(of)]
    flat = collate([[row + 1, *range(n - 1)] for row, n in enumerate(lengths)], [1] * 30)
    group = torch.arange(30) // 3
    zero = torch.zeros(30)
    rollouts = RolloutBatch(flat.ids, flat.mask, flat.action, zero[:, None], zero, group, zero > 0)
    for batch in (as_lists(flat, group), rollouts):
        parts = list(batch.split(budget))
        assert sorted(int(i) for part in parts for i in part.ids[:, 0]) == list(range(1, 31))
        assert sorted(len(part) for part in parts) == sorted(sizes)
        for part in parts:
            assert part.ids.numel() <= budget
            lists = part.rows()
            together = len(set(((part.ids[:, 0] - 1) // 3).tolist()))
            if len(part) > together:
                assert isinstance(lists, ListRows) and lists.k == len(part) // together


def test_every_tensor_of_a_batch_is_cut_alike() -> None:
    rows = ragged(6)
    value = torch.where(rows.action, rows.ids.double(), torch.nan)
    batch = RolloutBatch(
        rows.ids, rows.mask, rows.action, value, rows.ids[:, 0].double(), torch.arange(6), torch.arange(6) % 2 == 0
    )
    some = batch.select(torch.tensor([4, 1]))
    assert some.reward.tolist() == [5.0, 2.0] and some.group.tolist() == [4, 1] and some.ended.tolist() == [True, False]
    assert torch.equal(some.sampler_logp[some.action], some.ids[some.action].double())
    assert some.sampler_logp.shape == some.ids.shape
    assert batch.to("cpu").ids.shape == batch.ids.shape


def test_a_list_of_completions_stays_in_one_piece() -> None:
    batch = ranked_lists()
    assert batch.lengths.tolist() == [9, 2]
    parts = list(batch.split(64))
    assert [p.ids.shape for p in list(batch.split(10))] == [torch.Size([1, 3, 9]), torch.Size([1, 3, 2])]
    assert len(parts) == 1 and parts[0].rows().ids.shape == (6, 9)
    short = list(batch.split(10))[1]
    assert short.present.tolist() == [[True, True, False]] and short.wins.shape == (1, 3, 3)
    assert short.ids[0, :2].tolist() == [[7, 8], [9, 0]]


def test_what_people_said_becomes_wins_and_choices() -> None:
    batch = ranked_lists()
    third = 1 / 3
    assert batch.wins[0].tolist() == [
        pytest.approx(x) for x in ([0, 0, third / 2], [third, 0, third], [third / 2, 0, 0])
    ]
    assert batch.wins[1].tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 0]]
    assert batch.weight.tolist() == [1.0, 1.0]
    assert batch.wins.sum((1, 2)).tolist() == pytest.approx([1.0, 1.0])
    # There is one choice fewer than ranked completions.
    assert batch.choice_weight.sum(1).tolist() == pytest.approx([2.0, 1.0])
    assert batch.numerator.sum(1).tolist() == pytest.approx([2.0, 1.0])
    assert not batch.choice_mask[1, :, 2].any()


def test_scores_go_back_to_their_lists_with_nothing_where_there_is_no_completion() -> None:
    batch = ranked_lists()
    scores = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, torch.nan])
    assert batch.lists(scores).tolist() == [[1, 2, 3], [4, 5, 0]]
