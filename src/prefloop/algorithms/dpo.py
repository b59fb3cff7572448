"""Direct preference optimisation from whole rankings (Rafailov 2023, eq. 7), ties included.

The implicit reward of a completion is beta * (log p - log p_ref) of its tokens. The loss is Bradley-Terry over all
pairs of each ranking: each pair counts 1 / (K choose 2), and a tie counts half in both directions (cDPO with epsilon =
0.5). Each completion is run once a list, however many pairs it is in.

Variants are options: labels of which a share is wrong (cDPO, Mitchell 2023; robust DPO, Chowdhury 2024), lengths
normalised (Lambert 2024), and cross-entropy on the best answers beside the loss (RPO, Pang 2024).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from prefloop.algorithms.base import Loss, Need, Positive
from prefloop.algorithms.imitation import Imitation
from prefloop.algorithms.ranked import log_ratio
from prefloop.batch import PolicyOutput, ReferencedBatch
from prefloop.ops.preference import bradley_terry, smoothed, unflipped


@dataclass(frozen=True)
class Dpo(Imitation):
    """Holds the options of DPO beside `sft`.

    beta:              strength of the pull to the reference; usual range 0.05 to 0.5
    label_smoothing:   the share of pairs that people are thought to have put the wrong way round; 0 to 0.3
    loss_type:         what is done about them: "sigmoid" smooths the labels (cDPO), "robust" corrects the loss for them
    length_normalised: whether log-probabilities are means over tokens; beta is then 2 to 10
    """

    beta: Positive = 0.1
    label_smoothing: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    loss_type: Literal["sigmoid", "robust"] = "sigmoid"
    length_normalised: bool = False
    name = "dpo"
    needs: frozenset[Need] = frozenset({"reference"})

    def __post_init__(self) -> None:
        if self.loss_type == "robust" and self.label_smoothing == 0.5:
            raise ValueError('loss_type = "robust" needs a label_smoothing below 0.5: labels of chance say nothing')

    def loss(self, out: PolicyOutput, batch: ReferencedBatch) -> Loss:
        logp = batch.logp(out.logp)
        moved = log_ratio(logp, batch)
        if self.length_normalised:
            moved = moved / batch.tokens
        wins = batch.wins
        if self.label_smoothing:
            wins = {"sigmoid": smoothed, "robust": unflipped}[self.loss_type](wins, self.label_smoothing)
        implicit = self.beta * moved
        total = bradley_terry(implicit, wins).sum()
        return self.reported(total, batch, implicit, moved, logp)
