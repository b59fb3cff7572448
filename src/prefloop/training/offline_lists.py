"""Makes batches of ranked lists for the methods that learn from them directly, with what the reference says of each.

The frozen reference's log-probability of a completion is computed once, and kept in the store for every run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from prefloop.batch import AnchoredBatch, RankingBatch, ReferencedBatch, collate_rankings
from prefloop.engine.base import Engine
from prefloop.labels.ranking import good_and_bad
from prefloop.models.tokenization import Tokenization
from prefloop.ops.masked import masked_sum
from prefloop.ops.preference import ordered_pairs
from prefloop.rewards.sequence import Joined, join, join_learnt
from prefloop.store import Store
from prefloop.training.demonstrations import rows_of
from prefloop.types import Item, digest

ASSISTANT_ONLY = "the assistant's tokens only"
AT_ONCE = 16  # So many held-out lists are measured in one batch.


class OfflineLists:
    """Holds encoded lists of one run."""

    def __init__(
        self,
        store: Store,
        reference: str | None,
        engine: Engine,
        tokenization: Tokenization,
        items: Sequence[Item],
        objective: Any,
        weights: Mapping[str, float] | None = None,
        role: Literal["reference", "refreshed"] = "reference",
    ):
        """Encode the lists.

        reference: names who is asked in the store; None where the algorithm needs no reference
        weights: {ranking id: how much it counts}; 1 for those not named
        role: who the reference is. One that follows the policy is asked at every step, and the store knows nothing of
              it; held-out lists are measured from the one that stays.
        """
        self.store, self.reference, self.engine, self.items = store, reference, engine, items
        self.objective, self.weights = objective, weights or {}
        self.tokenization, self.role = tokenization, role
        self.encoded = [[join_learnt(tokenization, item.prompt, c) for c in item.completions] for item in items]
        self.named = {} if reference is None else self._names(reference)
        self.known = self._stored()

    def batch(self, at: Sequence[int]) -> RankingBatch:
        """Return the batch of the lists `at`, with all that the algorithm needs."""
        batch = self._with_reference(at)
        if "mismatched" not in getattr(self.objective, "needs", ()):
            return batch
        return AnchoredBatch(**_fields(batch), reference_point=torch.full((len(at),), self._reference_point(at)))

    def _with_reference(self, at: Sequence[int]) -> RankingBatch:
        items = [self.items[i] for i in at]
        ids = [[c.id for c in item.completions] for item in items]
        weights = [[self.weights.get(r.id, 1.0) for r in item.rankings] for item in items]
        lists = [self.encoded[i] for i in at]
        batch = collate_rankings(
            [[(one.ids, one.prompt) for one in some] for some in lists],
            ids,
            [i.rankings for i in items],
            weights,
            [[one.assistant for one in some] for some in lists],
        )
        if self.reference is None:
            return batch
        if self.role == "refreshed":
            return ReferencedBatch(**_fields(batch), ref_total=self._totals("refreshed", batch))
        return self._referenced(batch, ids)

    def _reference_point(self, at: Sequence[int]) -> float:
        """Return how far the policy has moved from the reference on answers to other prompts, in nats, at least 0.

        Each prompt gets the labelled answers of the next list with another prompt, so that a list that is the only one
        of its batch has one, too.
        """
        joined = [self._joined(n, m, k) for n in at for m in [self._next(n)] for k in _labelled(self.items[m])]
        rows = rows_of(joined)
        moved = self.engine.forward("policy", rows) - self.engine.forward(self.role, rows, as_learner=True)
        return max(0.0, float(masked_sum(moved, rows.action)) / len(rows))

    def _joined(self, n: int, m: int, k: int) -> Joined:
        """Return the prompt of list n with answer k of list m."""
        asked, said = self.encoded[n][0], self.encoded[m][k]
        return join(self.tokenization, asked.ids[: asked.prompt], said.answer, assistant=said.assistant)

    def _next(self, n: int) -> int:
        others = ((n + step) % len(self.items) for step in range(1, len(self.items)))
        return next(m for m in others if self.items[m].prompt.id != self.items[n].prompt.id)

    def _referenced(self, batch: RankingBatch, ids: list[list[str]]) -> ReferencedBatch:
        missing = [n for n, some in enumerate(ids) if any(key not in self.known for key in some)]
        if missing:
            totals = self._totals("reference", batch.select(torch.tensor(missing))).tolist()
            said = {key: value for n, row in zip(missing, totals, strict=True) for key, value in zip(ids[n], row)}  # noqa: B905
            fresh = {key: value for key, value in said.items() if key not in self.known}
            for name, keys in _grouped({key: self.named[key] for key in fresh}).items():
                self.store.add_logprobs(name, {key: fresh[key] for key in keys})
            self.known.update(fresh)
        ref = torch.zeros(batch.present.shape)
        for row, some in zip(ref, ids, strict=True):
            row[: len(some)] = torch.tensor([self.known[key] for key in some])
        return ReferencedBatch(**_fields(batch), ref_total=ref)

    def _names(self, reference: str) -> dict[str, str]:
        """Return {completion id: by which name the store keeps what the reference says of it}.

        Answers of several turns have a name of their own. What an older version kept of them by the reference's name is
        of all their tokens, and not of the assistant's alone.
        """
        masked = digest(reference, ASSISTANT_ONLY)
        ids = (c.id for item in self.items for c in item.completions)
        encoded = (one for some in self.encoded for one in some)
        return {id: masked if one.assistant else reference for id, one in zip(ids, encoded, strict=True)}

    def _stored(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, keys in _grouped(self.named).items():
            found |= self.store.logprobs(name, keys)
        return found

    def _totals(self, role: Any, batch: RankingBatch) -> Tensor:
        """Return the log-probability of each completion in nats, [R,K]."""
        return batch.logp(self.engine.forward(role, batch, as_learner=True))

    def accuracy(self) -> dict[str, float]:
        """Return the share of strict held-out pairs that the method's implicit reward orders as people do.

        It is the log-probability, less the reference's where there is one, and a token where lengths are normalised.
        Where there are only labels of single answers, every good one makes a pair with every bad one.
        """
        right = total = 0.0
        good, bad = [torch.zeros(0)], [torch.zeros(0)]
        for start in range(0, len(self.items), AT_ONCE):
            batch = self._with_reference(range(start, min(start + AT_ONCE, len(self.items))))
            implicit = self._implicit(batch)
            ordered, strict = ordered_pairs(implicit, batch.wins)
            right, total = right + float(ordered), total + float(strict)
            good.append(implicit[batch.best > batch.worst])
            bad.append(implicit[batch.best < batch.worst])
        if not total:
            right, total = _above(torch.cat(good), torch.cat(bad))
        return {"heldout_accuracy": right / total} if total else {}

    def _implicit(self, batch: RankingBatch) -> Tensor:
        score = self._totals("policy", batch)
        if isinstance(batch, ReferencedBatch):
            score = score - batch.ref_total
        return score / batch.tokens if getattr(self.objective, "length_normalised", False) else score


def _grouped(named: Mapping[str, str]) -> dict[str, list[str]]:
    """Return {name: its keys} of a mapping of keys to names."""
    found: dict[str, list[str]] = {}
    for key, name in named.items():
        found.setdefault(name, []).append(key)
    return found


def _fields(batch: RankingBatch) -> dict[str, Tensor]:
    return {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}


def _labelled(item: Item) -> list[int]:
    """Return the places of the completions that people call good or bad; all of them where nobody does."""
    said = {id for ranking in item.rankings for ids in good_and_bad(ranking) for id in ids}
    return [k for k, c in enumerate(item.completions) if c.id in said] or list(range(len(item.completions)))


def _above(good: Tensor, bad: Tensor, tie: float = 1e-4) -> tuple[float, int]:
    """Return how many pairs of a good and a bad answer are in order, a draw counting half, and how many there are."""
    gap = good[:, None] - bad[None, :]
    return float((gap > tie).sum()) + 0.5 * float((gap.abs() <= tie).sum()), gap.numel()
