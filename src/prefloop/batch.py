"""Turns lists of token ids into tensors; nothing else does.

    Rows          ids and masks of N sequences; supervised fine-tuning needs no more
    RankingBatch  R prompts x K completions, with what people said about them: reward models, DPO
    RolloutBatch  N sampled completions with their rewards -> LogprobBatch (old, reference logprobs, values)
                  -> CreditedBatch (advantages): a type per stage, each complete when made
    PolicyOutput, RewardOutput   what the models say about Rows

The first axis of a batch is what must not be cut: a list of completions stays in one piece. `split` cuts along it so
that each part holds at most `budget` padded tokens, longest rows first; parts are trimmed to their longest row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prefloop.labels.encoded import encoded_ranking
from prefloop.labels.ranking import good_and_bad
from prefloop.ops.masked import masked_sum
from prefloop.types import Ranking

Kind = Literal["index", "flag", "number"]
_KINDS: dict[str, tuple[torch.dtype, ...]] = {
    "index": (torch.long,),
    "flag": (torch.bool,),
    "number": (torch.float32, torch.float64, torch.bfloat16, torch.float16),
}


def _tensor(axes: str, kind: Kind) -> dict[str, str]:
    """Return what a field of a batch says about itself.

    axes: a letter for each; a last T is cut to the longest row of a part
    """
    return {"axes": axes, "kind": kind}


@dataclass(frozen=True)
class Rows:
    """Holds N right-padded sequences: prompt, then completion.

    ids:    [N,T] token ids; padding is undefined and never read
    mask:   [N,T] bool, real tokens
    action: [N,T] bool, the completion's tokens (with the end token) that the assistant itself wrote: what loss and
            reward are about
    """

    ids: Tensor = field(metadata=_tensor("NT", "index"))
    mask: Tensor = field(metadata=_tensor("NT", "flag"))
    action: Tensor = field(metadata=_tensor("NT", "flag"))

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Tensor) and value.dtype not in _KINDS[f.metadata["kind"]]:
                wanted = _KINDS[f.metadata["kind"]][0]
                raise TypeError(f"{type(self).__name__}.{f.name} holds {value.dtype}: convert it to {wanted} first")

    def __len__(self) -> int:
        return self.ids.shape[0]

    @property
    def positions(self) -> Tensor:
        """Position ids from the mask [N,T], so that left and right padding give the same numbers."""
        return (self.mask.cumsum(-1) - 1).clamp(min=0)

    @property
    def lengths(self) -> Tensor:
        """Real tokens a row of the first axis [N] (its longest sequence where it holds several)."""
        return self.mask.flatten(1, -2).sum(-1).amax(1) if self.mask.dim() == 3 else self.mask.sum(-1)

    def rows(self) -> Rows:
        """Return itself as plain rows [N,T], on which a model is run."""
        return Rows(self.ids, self.mask, self.action)

    def select(self, index: Tensor) -> Self:
        """Return the rows `index` [n], trimmed to the longest of them. Only for right-padded batches."""
        keep = int(self.lengths[index].max()) if index.numel() else 0
        cut: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Tensor):
                value = value[index]
                cut[f.name] = value[..., :keep] if f.metadata["axes"].endswith("T") else value
        return replace(self, **cut)

    @property
    def together(self) -> int:
        """Return how many rows at a time come from one list, and are better not parted."""
        return 1

    def split_index(self, budget: int) -> list[Tensor]:
        """Return row indices of parts of at most `budget` padded tokens (at least one row each), like lengths together.

        Rows of one list stay together, unless they alone are over the budget.
        """
        return _split(self.lengths, 1 if self.ids.dim() == 2 else self.ids.shape[1], self.together, budget)

    def split(self, budget: int) -> Iterator[Self]:
        for index in self.split_index(budget):
            yield self.select(index)

    def to(self, device: torch.device | str) -> Self:
        moved = {f.name: getattr(self, f.name) for f in fields(self) if isinstance(getattr(self, f.name), Tensor)}
        return replace(self, **{name: value.to(device) for name, value in moved.items()})


@dataclass(frozen=True)
class ListRows(Rows):
    """Holds rows that come `k` at a time from one list: they may share a prompt, which a model then reads once."""

    k: int

    @property
    def together(self) -> int:
        return self.k

    def rows(self) -> ListRows:
        return self

    def select(self, index: Tensor) -> Self:
        """Return the selected rows as lists of as many as are left of each list; as lists of one if that is uneven."""
        return replace(super().select(index), k=_together(index // self.k))


def _split(lengths: Tensor, wide: int, together: int, budget: int) -> list[Tensor]:
    """Return places in `lengths` [R] of parts of at most `budget` tokens, where each place is of `wide` sequences."""
    # All rows fit at once, so they stay as they are.
    if len(lengths) and int(lengths.max()) * wide * len(lengths) <= budget:
        return [torch.arange(len(lengths), device=lengths.device)]
    longest = lengths.view(-1, together).amax(1)
    order = torch.argsort(longest, descending=True, stable=True)
    within = torch.arange(together, device=lengths.device)
    parts: list[Tensor] = []
    start = 0
    while start < len(order):
        room = max(1, budget // (max(1, int(longest[order[start]])) * wide))
        lists = order[start : start + max(1, room // together)]
        parts += (lists[:, None] * together + within).flatten().split(room)
        start += len(lists)
    return parts


def as_lists(rows: Rows, group: Tensor) -> Rows:
    """Return lists where the rows of each group [N] stand together, equally many of each; else the rows as they are."""
    k = _together(group)
    return ListRows(rows.ids, rows.mask, rows.action, k=k) if k > 1 else rows


def _together(group: Tensor) -> int:
    """Return how many rows of each group [N] stand together, equally many of each; else 1."""
    k = int((group == group[0]).sum()) if len(group) else 1
    even = len(group) % k == 0 and bool((group.view(-1, k) == group[::k, None]).all())
    return k if even else 1


@dataclass(frozen=True)
class RankingBatch(Rows):
    """Holds R lists of up to K completions; ids, mask, action are [R,K,T].

    present:       [R,K] bool, real completions
    wins:          [R,K,K] how much "i beats j" counts; a ranking's pairs sum to its weight (1 / (K choose 2) each)
    ties:          [R,K,K] how much "i ties j" counts, in both cells; `wins` holds half of it in each
    choice_mask:   [R,D,K], choice_weight: [R,D], numerator: [R,K]: the Plackett-Luce choices of the same rankings
    weight:        [R] rankings of the list, weighted
    best, worst:   [R,K] how much "i is good" and "i is bad" count: labels of single completions, or the outer tiers
    """

    present: Tensor = field(metadata=_tensor("RK", "flag"))
    wins: Tensor = field(metadata=_tensor("RKK", "number"))
    ties: Tensor = field(metadata=_tensor("RKK", "number"))
    choice_mask: Tensor = field(metadata=_tensor("RDK", "flag"))
    choice_weight: Tensor = field(metadata=_tensor("RD", "number"))
    numerator: Tensor = field(metadata=_tensor("RK", "number"))
    weight: Tensor = field(metadata=_tensor("R", "number"))
    best: Tensor = field(metadata=_tensor("RK", "number"))
    worst: Tensor = field(metadata=_tensor("RK", "number"))

    def rows(self) -> ListRows:
        return ListRows(
            self.ids.flatten(0, 1), self.mask.flatten(0, 1), self.action.flatten(0, 1), k=self.present.shape[1]
        )

    def lists(self, x: Tensor) -> Tensor:
        """Return numbers of rows [R*K] as lists [R,K]; 0 where there is no completion."""
        return torch.where(self.present, x.view(self.present.shape), torch.zeros_like(x).view(self.present.shape))

    def logp(self, token_logp: Tensor, mean: bool = False) -> Tensor:
        """Return each completion's log-probability [R,K] from that of its tokens [R*K,T]; `mean`: a token, not all."""
        total = self.lists(masked_sum(token_logp, self.rows().action, dim=1))
        return total / self.tokens if mean else total

    @property
    def tokens(self) -> Tensor:
        """Return how many tokens each completion has [R,K], at least 1, so that one may divide."""
        return self.action.sum(-1).clamp(min=1)


@dataclass(frozen=True)
class ReferencedBatch(RankingBatch):
    """Adds the frozen reference's log-probability of each completion, `ref_total` [R,K], to a RankingBatch (DPO)."""

    ref_total: Tensor = field(metadata=_tensor("RK", "number"))


@dataclass(frozen=True)
class AnchoredBatch(ReferencedBatch):
    """Adds `reference_point` [R]: nats that the policy moved on answers to other prompts, the same for all (KTO)."""

    reference_point: Tensor = field(metadata=_tensor("R", "number"))


@dataclass(frozen=True)
class RolloutBatch(Rows):
    """Holds N completions as sampled.

    sampler_logp: [N,T] by whoever sampled     reward: [N] normalised, at the end of the sequence
    group:        [N] which prompt             ended:  [N] bool, False where the length limit cut it off
    """

    sampler_logp: Tensor = field(metadata=_tensor("NT", "number"))
    reward: Tensor = field(metadata=_tensor("N", "number"))
    group: Tensor = field(metadata=_tensor("N", "index"))
    ended: Tensor = field(metadata=_tensor("N", "flag"))

    @property
    def together(self) -> int:
        return _together(self.group)

    def rows(self) -> Rows:
        """Return plain rows, or lists where the completions of each prompt stand together, equally many of each."""
        return as_lists(super().rows(), self.group)


@dataclass(frozen=True)
class LogprobBatch(RolloutBatch):
    """Adds what the models say before the first update on this batch [N,T], each where the algorithm `needs` it.

    baseline: [N] the mean of earlier rewards on the same prompt
    """

    old_logp: Tensor = field(metadata=_tensor("NT", "number"))
    ref_logp: Tensor | None = field(metadata=_tensor("NT", "number"))
    value: Tensor | None = field(metadata=_tensor("NT", "number"))
    baseline: Tensor | None = field(metadata=_tensor("N", "number"), kw_only=True, default=None)


@dataclass(frozen=True)
class CreditedBatch(LogprobBatch):
    """Adds `advantage` [N,T], the critic's target `returns` [N,T], and which rows are learnt from: `kept` [N]."""

    advantage: Tensor = field(metadata=_tensor("NT", "number"))
    returns: Tensor | None = field(metadata=_tensor("NT", "number"))
    kept: Tensor | None = field(metadata=_tensor("N", "flag"), kw_only=True, default=None)

    def learnt(self) -> Self:
        return self if self.kept is None else self.select(self.kept.nonzero().flatten())


@dataclass(frozen=True)
class PolicyOutput:
    """Holds what a policy (and its critic) says about Rows: per token, 0 outside the action mask.

    logp:    [N,T] log-probability of the token, at the sampling temperature, with gradient
    value:   [N,T] the critic's estimate before the token; None where no critic is trained
    """

    logp: Tensor
    value: Tensor | None = None


@dataclass(frozen=True)
class RewardOutput:
    """Holds a reward model's raw score of each row [N]."""

    score: Tensor


def collate(
    sequences: Sequence[Sequence[int]], prompt_lengths: Sequence[int], assistant: Sequence[Sequence[bool]] = ()
) -> Rows:
    """Return right-padded Rows from sequences of ids, and from how many ids of each are prompt.

    assistant: which ids behind each prompt the assistant itself wrote; () for a row, or for all, if it wrote them all
    """
    width = max((len(s) for s in sequences), default=0)
    ids = torch.zeros(len(sequences), width, dtype=torch.long)
    mask = torch.zeros(len(sequences), width, dtype=torch.bool)
    action = torch.zeros(len(sequences), width, dtype=torch.bool)
    for row, (sequence, prompt) in enumerate(zip(sequences, prompt_lengths, strict=True)):
        ids[row, : len(sequence)] = torch.tensor(sequence, dtype=torch.long)
        mask[row, : len(sequence)] = True
        action[row, prompt : len(sequence)] = True
    for row, (wrote, prompt) in enumerate(zip(assistant, prompt_lengths)):  # noqa: B905 -- there may be no flags
        if wrote:
            action[row, prompt : prompt + len(wrote)] = torch.tensor(wrote)
    return Rows(ids, mask, action)


def collate_rankings(
    lists: Sequence[Sequence[tuple[Sequence[int], int]]],
    ids: Sequence[Sequence[str]],
    rankings: Sequence[Sequence[Ranking]],
    weights: Sequence[Sequence[float]] | None = None,
    assistant: Sequence[Sequence[Sequence[bool]]] = (),
) -> RankingBatch:
    """Return one RankingBatch from lists of encoded completions and the rankings over them.

    lists:    [R][K] (token ids, how many of them are prompt)
    ids:      [R][K] completion ids, as the rankings name them
    rankings: [R][..] any number a list;  weights: the same shape, how much each counts (1 by default)
    assistant: [R][K] as of `collate`
    """
    return RankingBatch(*collate_lists(lists, assistant), **collate_judgements(ids, rankings, weights))


def collate_lists(
    lists: Sequence[Sequence[tuple[Sequence[int], int]]], assistant: Sequence[Sequence[Sequence[bool]]] = ()
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return ids, mask, action [R,K,T] and present [R,K] of lists of encoded completions, as of `collate_rankings`."""
    count, wide = len(lists), max(len(row) for row in lists)
    flat = collate(
        [s for row in lists for s, _ in row], [p for row in lists for _, p in row], [w for a in assistant for w in a]
    )
    present = torch.arange(wide)[None, :] < torch.tensor([len(row) for row in lists])[:, None]
    token_ids = torch.zeros(count, wide, flat.ids.shape[1], dtype=torch.long)
    mask, action = torch.zeros_like(token_ids, dtype=torch.bool), torch.zeros_like(token_ids, dtype=torch.bool)
    token_ids[present], mask[present], action[present] = flat.ids, flat.mask, flat.action
    return token_ids, mask, action, present


def collate_judgements(
    ids: Sequence[Sequence[str]],
    rankings: Sequence[Sequence[Ranking]],
    weights: Sequence[Sequence[float]] | None = None,
) -> dict[str, Tensor]:
    """Return what people said about R lists, as a RankingBatch holds it. Arguments are as of `collate_rankings`."""
    count, wide = len(ids), max(len(row) for row in ids)
    # This is numpy, because each list is small, and there are many: torch takes microseconds for every number.
    wins, ties = np.zeros((count, wide, wide), np.float32), np.zeros((count, wide, wide), np.float32)
    numerator, weight = np.zeros((count, wide), np.float32), np.zeros(count, np.float32)
    best, worst = np.zeros((count, wide), np.float32), np.zeros((count, wide), np.float32)
    masks: list[list[NDArray[np.bool_]]] = [[] for _ in ids]  # the masks of the choices of each list
    counts: list[list[NDArray[np.float64]]] = [[] for _ in ids]
    for r, row_ids in enumerate(ids):
        k = len(row_ids)
        place = {name: column for column, name in enumerate(row_ids)}
        for j, ranking in enumerate(rankings[r]):
            w = weights[r][j] if weights is not None else 1.0
            said = encoded_ranking(tuple(tuple(place[id] for id in tier) for tier in ranking.tiers), k)
            weight[r] += w
            wins[r, :k, :k] += (w * said.wins).astype(np.float32)
            ties[r, :k, :k] += (w * said.ties).astype(np.float32)
            for column, ids_of in zip((best, worst), good_and_bad(ranking), strict=True):
                column[r, [place[id] for id in ids_of]] += w
            numerator[r, :k] += w * said.numerator
            masks[r].append(said.mask)
            counts[r].append(w * said.count)

    depth = max(1, *(sum(map(len, some)) for some in counts))
    choice_mask, choice_weight = np.zeros((count, depth, wide), bool), np.zeros((count, depth), np.float32)
    for r, some in enumerate(counts):
        if some:
            mask, weighed = np.concatenate(masks[r]), np.concatenate(some)
            choice_mask[r, : len(mask), : mask.shape[1]], choice_weight[r, : len(mask)] = mask, weighed
    found = {
        "wins": wins,
        "ties": ties,
        "choice_mask": choice_mask,
        "choice_weight": choice_weight,
        "numerator": numerator,
        "weight": weight,
        "best": best,
        "worst": worst,
    }
    return {name: torch.from_numpy(array) for name, array in found.items()}
