"""Says whether a reward model can tell better from worse, by its report on held-out pairs."""

from __future__ import annotations

from typing import Protocol

ADVICE = "Have more lists ranked, or more prompts held out ([data] heldout), and train it again"


class Measured(Protocol):
    """The accuracy of a reward model on held-out pairs. low, high: its 95 % interval, where there is one."""

    @property
    def accuracy(self) -> float | None: ...
    @property
    def low(self) -> float | None: ...
    @property
    def high(self) -> float | None: ...
    @property
    def pairs(self) -> int: ...
    @property
    def prompts(self) -> int: ...


def at_chance(heldout: Measured | None, name: str) -> str | None:
    """The warning about a reward model that is at chance or was never measured; None where it is better than chance.

    heldout: None where it was not measured.
    """
    if heldout is None or heldout.accuracy is None:
        return (
            f"the reward model {name} has never been measured: no held-out prompt has a ranked pair. What a policy "
            f"learns from it may be noise. {ADVICE}."
        )
    low, high = heldout.low, heldout.high
    if low is not None and low > 0.5:
        return None
    where = f"{heldout.accuracy:.1%} of {heldout.pairs} held-out pairs ({heldout.prompts} prompts)"
    interval = f", 95 % interval {low:.1%} to {high:.1%}" if low is not None else ""
    state = "is worse than chance" if high is not None and high < 0.5 else "is at chance"
    return f"the reward model {name} {state}: it is right on {where}{interval}. A policy would learn noise. {ADVICE}."
