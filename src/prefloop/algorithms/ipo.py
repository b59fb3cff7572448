"""Identity preference optimisation: regresses each pair's gap of log-ratios to a fixed margin (Azar 2023, eq. 17).

The loss of "i beats j" is (h_i - h_j - 1 / (2 beta))^2 with h = log p - log p_ref. Unlike that of DPO it has a minimum
even where all people agree, so that certain preferences do not pull the policy ever farther from its reference. Pairs
are weighted as in DPO: each ranking counts 1, each of its pairs 1 / (K choose 2), and a tie half in both directions,
which pulls the gap to 0.
"""

from __future__ import annotations

from dataclasses import dataclass

from prefloop.algorithms.base import Loss, Need, Positive
from prefloop.algorithms.ranked import Ranked, log_ratio
from prefloop.batch import PolicyOutput, ReferencedBatch
from prefloop.ops.preference import over_pairs


@dataclass(frozen=True)
class Ipo(Ranked):
    """Holds the options of IPO.

    beta:              strength of the pull to the reference (tau in the paper); usual range 0.01 to 1
    length_normalised: whether log-probabilities are means over tokens, as in TRL; the margin is then nats a token
    """

    beta: Positive = 0.1
    length_normalised: bool = False
    name = "ipo"
    needs: frozenset[Need] = frozenset({"reference"})

    def loss(self, out: PolicyOutput, batch: ReferencedBatch) -> Loss:
        logp = batch.logp(out.logp)
        moved = log_ratio(logp, batch)
        if self.length_normalised:
            moved = moved / batch.tokens
        gap = moved[:, :, None] - moved[:, None, :]
        total = over_pairs((gap - 1 / (2 * self.beta)) ** 2, batch.wins).sum()
        return self.reported(total, batch, self.beta * moved, moved, logp)
