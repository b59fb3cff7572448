"""Direct preference optimisation in which a tie is an outcome of its own (Chen 2024, "DPO with ties").

A pair has three outcomes. With the gap d of implicit rewards, Davidson (1970) gives them the chances exp(d / 2),
exp(-d / 2) and 2 nu, divided by their sum (DPO-D). Rao and Kupper (1967) ask that a winner be better by log nu: a win
has chance sigmoid(d - log nu), a loss sigmoid(-d - log nu), and a tie what is left (DPO-RK). Here `tie_rate` is the
chance of a tie at equal rewards, from which nu follows. Pairs are weighted as in DPO, which is the limit of rare ties.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from prefloop.algorithms.base import Loss, Need, Positive
from prefloop.algorithms.imitation import Imitation
from prefloop.algorithms.ranked import log_ratio
from prefloop.batch import PolicyOutput, ReferencedBatch
from prefloop.ops.preference import davidson, over_pairs, rao_kupper


@dataclass(frozen=True)
class DpoTies(Imitation):
    """Holds the options of DPO with ties beside `sft`.

    beta:     strength of the pull to the reference; usual range 0.05 to 0.5
    tie_rate: how likely people are to call two equally good answers a tie; 0.1 to 0.6
    model:    of the outcomes: "davidson" or "rao_kupper"
    """

    beta: Positive = 0.1
    tie_rate: Annotated[float, Field(gt=0, lt=1)] = 0.5
    model: Literal["davidson", "rao_kupper"] = "davidson"
    name = "dpo_ties"
    needs: frozenset[Need] = frozenset({"reference"})

    def loss(self, out: PolicyOutput, batch: ReferencedBatch) -> Loss:
        logp = batch.logp(out.logp)
        moved = log_ratio(logp, batch)
        implicit = self.beta * moved
        gap = implicit[:, :, None] - implicit[:, None, :]
        win, tie = {"davidson": davidson, "rao_kupper": rao_kupper}[self.model](gap, self.tie_rate)
        strict = (batch.wins - batch.ties / 2).clamp(min=0)
        total = -(over_pairs(win, strict) + over_pairs(tie, batch.ties / 2)).sum()
        return self.reported(total, batch, implicit, moved, logp)
