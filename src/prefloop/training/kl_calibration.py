"""Sets the target of the KL by evaluation: below the distance at which a judge that is not trained on turns over.

Outer loop, at each evaluation: the judge's gain over the reference is fitted against d = sqrt(KL), by both forms of
Gao, Schulman and Hilton (2023), on bootstrap resamples of the prompts. Where most resamples see a turning point d*
among the distances that were reached, the target is (0.8 d*)^2 nats; else it is the user's budget, so that noise stops
nothing. Evaluations count half as much after `HALF_LIFE` further ones: the curve is that of the policy as it is now,
and what was taken for a turning point too early is forgotten.

Inner loop, at each step: the log of the coefficient moves in proportion to ln(KL / target), and a second part of it is
in proportion to it, as for the multipliers of `rewards/objective.py` (Stooke et al. 2020). Ziegler's controller moves
by 0.3 % a step at its usual horizon, and would not come from 0.001 to where it is needed within a run. Its error is cut
to 0.2, whether the KL is twice or ten times the target, so that it is too slow far away or too fast nearby.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prefloop.diagnose.gao import NEAR, both_forms, turning_points

Array = NDArray[np.float64]

SAFETY = 0.8  # of d*. The curve is flat at its top: d (alpha - beta ln d) has 98 % of its height there.
HALF_LIFE = 5  # evaluations
REMEMBERED = 20  # evaluations; the oldest counts 1/14
FEWEST = 4  # evaluations further than `NEAR`; two are the curve's own
RESAMPLES = 200
# Of the inner loop: how fast the coefficient moves, how much it answers at once, and the largest error, as a logarithm.
SPEED, PUSH, LARGEST = 0.1, 1.0, 1.5


@dataclass(frozen=True)
class Look:
    """Holds one evaluation: each prompt's KL in nats, and the judge's gain over the reference's answer to it."""

    step: int
    kl: tuple[float, ...]
    gain: tuple[float, ...]


@dataclass(frozen=True)
class KlCalibration:
    """What a run has learnt of how far its policy may go: an immutable value, of which each evaluation makes the next.

    budget:      nats; the target is never more
    low, high:   bounds of the coefficient
    log:         the part of the coefficient's logarithm that moves slowly
    coefficient: of the next step
    target:      nats
    turn:        d*, the median over resamples; None where most see none
    certain:     the share of resamples that see a turning point
    past:        the share in which the policy is past it
    earlier:     alpha and beta of both forms in earlier runs with the same judge
    """

    budget: float
    low: float
    high: float
    log: float
    coefficient: float
    target: float
    turn: float | None = None
    certain: float = 0.0
    past: float = 0.0
    reason: str = "nothing is evaluated yet"
    looks: tuple[Look, ...] = ()
    earlier: tuple[tuple[float, float], ...] | None = None

    @classmethod
    def starting(cls, coefficient: float, budget: float, low: float, high: float) -> KlCalibration:
        start = min(high, max(low, coefficient))
        return cls(budget, low, high, math.log(start), start, budget)

    def after(self, curves: Sequence[tuple[Sequence[float], Sequence[float]]]) -> KlCalibration:
        """Return the same with what earlier runs came to: (KL, gain) of each run's evaluations."""
        kl, gain = (np.array([x for curve in curves for x in curve[part]], dtype=float) for part in (0, 1))
        if (kl > NEAR**2).sum() < FEWEST:
            return self
        told, _ = both_forms(np.sqrt(np.maximum(kl, 0.0))[None], gain[None], np.ones(len(kl)))
        if not np.isfinite(told).all():
            return self
        return replace(self, earlier=tuple((float(alpha), float(beta)) for alpha, beta in told[:, 0]))

    def steer(self, kl: float) -> KlCalibration:
        """Return what follows from the KL of a step's samples, in nats a sequence: the next coefficient."""
        error = min(max(math.log(max(kl, 1e-3) / self.target), -LARGEST), LARGEST)
        log = min(math.log(self.high), max(math.log(self.low), self.log + SPEED * error))
        coefficient = min(self.high, max(self.low, math.exp(log + PUSH * error)))
        return replace(self, log=log, coefficient=coefficient)

    def look(self, step: int, kl: Sequence[float], gain: Sequence[float], seed: int) -> KlCalibration:
        """Return what follows from one more evaluation: the target, and why it is that.

        kl, gain: [P] of the same prompts at every evaluation
        seed: of the resamples
        """
        looks = (*self.looks, Look(step, tuple(kl), tuple(gain)))[-REMEMBERED:]
        far = sum(np.mean(look.kl) > NEAR**2 for look in looks)
        now = replace(self, looks=looks)
        if far < FEWEST:
            why = f"a curve needs {FEWEST} evaluations further than {NEAR**2:.2g} nats, of which there are {far}"
            return replace(now, target=self.budget, turn=None, certain=0.0, past=0.0, reason=why)
        turns, last = now._turns(np.random.default_rng([seed, step]))
        certain, past = float(np.isfinite(turns).mean()), float((turns < last).mean())
        turn = float(np.sort(turns)[len(turns) // 2])
        if not math.isfinite(turn):
            why = f"{certain:.0%} of the resamples see the judge turn over: too few"
            return replace(now, target=self.budget, turn=None, certain=certain, past=past, reason=why)
        target = min(self.budget, (SAFETY * turn) ** 2)
        why = f"the judge turns over at {turn**2:.3g} nats in {certain:.0%} of the resamples; {past:.0%} are past it"
        return replace(now, target=target, turn=turn, certain=certain, past=past, reason=why)

    def _turns(self, rng: np.random.Generator) -> tuple[Array, Array]:
        """Return d* of each resample of the prompts, inf where none is among what was reached; and the last d [B]."""
        kl, gain = (np.array([getattr(look, name) for look in self.looks]) for name in ("kl", "gain"))
        prompts = kl.shape[1]
        drawn = rng.multinomial(prompts, np.full(prompts, 1 / prompts), size=RESAMPLES) / prompts
        d = np.sqrt(np.maximum(drawn @ kl.T, 0.0))
        curves, errors = both_forms(d, drawn @ gain.T, self._weights(gain), self._before())
        turns = turning_points(curves, errors)
        return np.where(turns < d.max(1), turns, np.inf), d[:, -1]

    def _weights(self, gain: Array) -> Array:
        age = np.arange(len(gain))[::-1]
        return 0.5 ** (age / HALF_LIFE) / np.maximum(gain.var(1) / gain.shape[1], 1e-12)

    def _before(self) -> Array | None:
        return None if self.earlier is None else np.array(self.earlier)

    def metrics(self) -> dict[str, float]:
        """Return what an evaluation logs of it; the turning point in nats, where one is seen."""
        found = {"kl_turn_certain": self.certain, "kl_past_turn": self.past}
        return found if self.turn is None else {**found, "kl_turn": self.turn**2}

    def state(self) -> dict[str, Any]:
        return asdict(self)

    def restored(self, state: Mapping[str, Any]) -> KlCalibration:
        looks = tuple(Look(at["step"], tuple(at["kl"]), tuple(at["gain"])) for at in state["looks"])
        earlier = state["earlier"] and tuple((alpha, beta) for alpha, beta in state["earlier"])
        return KlCalibration(**{**state, "looks": looks, "earlier": earlier})


def lower_end(gain: Sequence[float]) -> float:
    """Return the lower end of the 95 % interval of the mean gain over the reference: by it a step is chosen.

    Answers that are the reference's own have a gain of exactly 0.
    """
    return float(np.mean(gain) - 1.96 * np.std(gain) / math.sqrt(len(gain)))
