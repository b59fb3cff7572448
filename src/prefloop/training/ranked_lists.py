"""Makes batches of ranked lists, on which reward models are trained.

Records that show the same texts for the same prompt become one list, so that a list ranked by several criteria is read
once. With `[reward] contrast` a list also gets an answer to another prompt, which is ranked below its own answers. That
helps criteria that judge whether an answer fits its prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from prefloop.algorithms.base import Loss, Objective, Role
from prefloop.batch import RankingBatch, RewardOutput, collate_judgements, collate_lists
from prefloop.config import Reward
from prefloop.models.tokenization import Tokenization
from prefloop.rewards.sequence import encode, join, reads
from prefloop.types import Completion, Item, Prompt, Ranking, digest

CANDIDATES = 32  # So many prompts are drawn; the one most like the list's own lends an answer.
LENT = "lent"  # A lent answer has this id within its list.


@dataclass(frozen=True)
class Shown:
    """Holds one list as people saw it. `rankings` maps a criterion to rankings of the ids of `completions`."""

    prompt: Prompt
    completions: tuple[Completion, ...]
    rankings: Mapping[str, tuple[Ranking, ...]]


def gather(items: Mapping[str, Sequence[Item]]) -> list[Shown]:
    """Merge items of several criteria into lists, in the order in which the lists first appear.

    items: {criterion: items that hold rankings by this criterion only}.
    """
    lists: dict[tuple[str, tuple[str, ...]], Shown] = {}
    for criterion, mine in items.items():
        for item in mine:
            key = (item.prompt.id, tuple(sorted(map(_answer, item.completions))))
            first = lists.setdefault(key, Shown(item.prompt, item.completions, {}))
            # Nothing tells equal texts apart, so any of them may stand for any other.
            pairs = zip(_by_text(item.completions), _by_text(first.completions), strict=True)
            name = {theirs.id: ours.id for theirs, ours in pairs}
            moved = tuple(replace(r, tiers=tuple(tuple(name[c] for c in t) for t in r.tiers)) for r in item.rankings)
            said = {**first.rankings, criterion: (*first.rankings.get(criterion, ()), *moved)}
            lists[key] = replace(first, rankings=said)
    return list(lists.values())


def _by_text(completions: Sequence[Completion]) -> list[Completion]:
    return sorted(completions, key=_answer)


def _answer(completion: Completion) -> str:
    return digest(completion.answer)


@dataclass(frozen=True)
class CriteriaBatch(RankingBatch):
    """Holds R lists with rankings by C criteria.

    The wins, choices, numerator and weight have a second axis: [R,C,..].
    """

    def by_criterion(self) -> RankingBatch:
        """Return one list for each (list, criterion): [R*C,..].

        Token ids stay [R,K,T], since they are not read again.
        """
        criteria = self.weight.shape[1]
        flat = {name: getattr(self, name).flatten(0, 1) for name in _JUDGED}
        return RankingBatch(self.ids, self.mask, self.action, self.present.repeat_interleave(criteria, 0), **flat)

    def scores(self, score: Tensor) -> Tensor:
        """Reorder the scores of a model with C heads, [R*K,C], as `by_criterion` has them, [R*C*K]."""
        lists, k = self.present.shape
        return score.view(lists, k, -1).transpose(1, 2).flatten()


_JUDGED = ("wins", "ties", "choice_mask", "choice_weight", "numerator", "weight", "best", "worst")


@dataclass(frozen=True)
class EachCriterion:
    """Applies an objective to every criterion of a CriteriaBatch. Every ranking counts the same."""

    objective: Objective
    name = "each_criterion"
    trains: tuple[Role, ...] = ("reward",)

    def weight(self, batch: CriteriaBatch) -> Tensor:
        return self.objective.weight(batch.by_criterion())

    def loss(self, out: RewardOutput, batch: CriteriaBatch) -> Loss:
        return self.objective.loss(RewardOutput(batch.scores(out.score)), batch.by_criterion())


class Lists:
    """Holds the training lists of one run, encoded once; `batch` draws lent answers from (seed, step) alone.

    weights: {ranking id: how much it counts}; 1 for those not named
    """

    def __init__(
        self,
        tokenization: Tokenization,
        lists: Sequence[Shown],
        criteria: Sequence[str],
        settings: Reward,
        seed: int,
        weights: Mapping[str, float] | None = None,
    ):
        self.lists, self.criteria, self.seed = list(lists), tuple(criteria), seed
        self.contrast = {c: settings.contrast[c] for c in criteria if settings.contrast.get(c)}
        self.encoded = [[encode(tokenization, s.prompt, c, settings.max_tokens) for c in s.completions] for s in lists]
        words = {s.prompt.id: frozenset(s.prompt.text.split()) for s in lists}
        self.words = [words[s.prompt.id] for s in lists]
        self.tokenization, self.max_tokens = tokenization, reads(tokenization, settings.max_tokens)
        self.weights = weights or {}

    def __len__(self) -> int:
        return len(self.lists)

    def batch(self, at: Sequence[int], step: int) -> CriteriaBatch:
        """Return the batch of the lists `at`. With contrast, each has an answer lent from another prompt."""
        rng = np.random.default_rng([self.seed, step])
        encoded = [list(self.encoded[n]) for n in at]
        ids = [[c.id for c in self.lists[n].completions] for n in at]
        said = [{c: list(self.lists[n].rankings.get(c, ())) for c in self.criteria} for n in at]
        weights = [{c: [self.weights.get(r.id, 1.0) for r in found] for c, found in one.items()} for one in said]
        for place, n in enumerate(at):
            lent = self._lend(n, rng) if self.contrast else None
            if lent is None:
                continue
            own = list(ids[place])
            encoded[place].append(lent)
            ids[place].append(LENT)
            for criterion, weight in self.contrast.items():
                if found := said[place][criterion]:
                    weights[place][criterion] += [weight * sum(weights[place][criterion]) / len(own)] * len(own)
                    said[place][criterion] = found + [_above(found[0], one) for one in own]
        parts = [collate_judgements(ids, [one[c] for one in said], [one[c] for one in weights]) for c in self.criteria]
        return CriteriaBatch(*collate_lists(encoded), **_stack(parts))

    def _lend(self, n: int, rng: np.random.Generator) -> tuple[list[int], int] | None:
        """Draw some prompts, take the one most like list n's, and encode an answer to it after n's own prompt.

        None where every prompt that was drawn is n's own.
        """
        mine = self.lists[n].prompt.id
        drawn = [int(m) for m in rng.integers(len(self.lists), size=CANDIDATES)]
        others = [m for m in drawn if self.lists[m].prompt.id != mine]
        if not others:
            return None
        nearest = max(others, key=lambda m: _likeness(self.words[n], self.words[m]))
        ids, cut = self.encoded[nearest][int(rng.integers(len(self.encoded[nearest])))]
        own_ids, own_cut = self.encoded[n][0]
        joined = join(self.tokenization, own_ids[:own_cut], ids[cut:], self.max_tokens)
        return joined.ids, joined.prompt


def _likeness(a: frozenset[str], b: frozenset[str]) -> float:
    """Return the share of the words of two prompts that both hold."""
    return len(a & b) / max(1, len(a | b))


def _above(like: Ranking, own: str) -> Ranking:
    """Return a ranking that puts one of a list's own answers above the lent one."""
    return Ranking(like.item_id, "contrast", like.criterion, ((own,), (LENT,)))


def _stack(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Stack the judgements of several criteria on the same lists to [R,C,..]."""
    depth = max(part["choice_weight"].shape[1] for part in parts)
    stacked: dict[str, Tensor] = {}
    for name in _JUDGED:
        columns = [part[name] for part in parts]
        if name in ("choice_mask", "choice_weight"):  # [R,D,..] is as deep as the deepest.
            columns = [_deepen(column, depth) for column in columns]
        stacked[name] = torch.stack(columns, dim=1)
    return stacked


def _deepen(column: Tensor, depth: int) -> Tensor:
    missing = depth - column.shape[1]
    return torch.cat([column, column.new_zeros(column.shape[0], missing, *column.shape[2:])], dim=1)
