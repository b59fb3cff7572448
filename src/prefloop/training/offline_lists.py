"""Makes batches of ranked lists for the methods that learn from them directly, with what the reference says of each.

The frozen reference's log-probability of a completion is computed once, and kept in the store for every run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from prefloop.batch import RankingBatch, ReferencedBatch, collate_rankings
from prefloop.engine.base import Engine
from prefloop.models.tokenization import Tokenization
from prefloop.ops.preference import ordered_pairs
from prefloop.rewards.sequence import encode
from prefloop.store import Store
from prefloop.types import Item

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
    ):
        """Encode the lists.

        reference: names who is asked in the store; None where the algorithm needs no reference
        weights: {ranking id: how much it counts}; 1 for those not named
        """
        self.store, self.reference, self.engine, self.items = store, reference, engine, items
        self.objective, self.weights = objective, weights or {}
        self.encoded = [[encode(tokenization, item.prompt, c) for c in item.completions] for item in items]
        named = (c.id for item in items for c in item.completions)
        self.known = {} if reference is None else store.logprobs(reference, named)

    def batch(self, at: Sequence[int]) -> RankingBatch:
        items = [self.items[i] for i in at]
        ids = [[c.id for c in item.completions] for item in items]
        weights = [[self.weights.get(r.id, 1.0) for r in item.rankings] for item in items]
        batch = collate_rankings([self.encoded[i] for i in at], ids, [i.rankings for i in items], weights)
        return batch if self.reference is None else self._referenced(batch, ids, self.reference)

    def _referenced(self, batch: RankingBatch, ids: list[list[str]], reference: str) -> ReferencedBatch:
        missing = [n for n, some in enumerate(ids) if any(key not in self.known for key in some)]
        if missing:
            totals = self._totals("reference", batch.select(torch.tensor(missing))).tolist()
            said = {key: value for n, row in zip(missing, totals, strict=True) for key, value in zip(ids[n], row)}  # noqa: B905
            fresh = {key: value for key, value in said.items() if key not in self.known}
            self.store.add_logprobs(reference, fresh)
            self.known.update(fresh)
        ref = torch.zeros(batch.present.shape)
        for row, some in zip(ref, ids, strict=True):
            row[: len(some)] = torch.tensor([self.known[key] for key in some])
        return ReferencedBatch(**{f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}, ref_total=ref)

    def _totals(self, role: Any, batch: RankingBatch) -> Tensor:
        """Return the log-probability of each completion in nats, [R,K]."""
        return batch.logp(self.engine.forward(role, batch))

    def accuracy(self) -> dict[str, float]:
        """Return the share of strict held-out pairs that the method's implicit reward orders as people do.

        It is the log-probability, less the reference's where there is one, and a token where lengths are normalised.
        """
        right = total = 0.0
        for start in range(0, len(self.items), AT_ONCE):
            batch = self.batch(range(start, min(start + AT_ONCE, len(self.items))))
            ordered, strict = ordered_pairs(self._implicit(batch), batch.wins)
            right, total = right + float(ordered), total + float(strict)
        return {"heldout_accuracy": right / total} if total else {}

    def _implicit(self, batch: RankingBatch) -> Tensor:
        score = self._totals("policy", batch)
        if isinstance(batch, ReferencedBatch):
            score = score - batch.ref_total
        return score / batch.tokens if getattr(self.objective, "length_normalised", False) else score
