"""Holds what the loop of `align` carries from step to step beside the learner."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prefloop.algorithms.registry import make, options_of
from prefloop.rewards.objective import Balance
from prefloop.training.baselines import Baselines
from prefloop.training.kl_calibration import KlCalibration


@dataclass
class Progress:
    """Holds values that are all in every checkpoint.

    balance: what is learnt of criteria with bounds; None where there are none
    baselines: the running mean reward of each prompt, for an algorithm that needs it
    calibration: what is learnt of how far the policy may go; None where no judge says it
    reference, start: {"figures", "rewards"} of the reference's and of step 0's answers to the validation prompts
    """

    algorithm: Any
    balance: Balance | None = None
    best_step: int = 0
    best_reward: float = -math.inf
    stopped: str = ""
    sampler_agrees: bool = (
        False  # At the last evaluation sampler and learner agreed, so that the sampler's logprobs can be used.
    )
    reference_shift: float = 0.0  # It is the nats a token that rounding to `frozen_dtype` took from the reference.
    evals: list[dict[str, Any]] = field(default_factory=list)
    reference: dict[str, Any] = field(default_factory=dict)
    start: dict[str, Any] = field(default_factory=dict)
    baselines: Baselines = field(default_factory=Baselines)
    calibration: KlCalibration | None = None

    def state(self) -> dict[str, Any]:
        return {
            "algorithm": options_of(self.algorithm),
            "best_step": self.best_step,
            "best_reward": self.best_reward if math.isfinite(self.best_reward) else None,
            "stopped": self.stopped,
            "sampler_agrees": self.sampler_agrees,
            "reference_shift": self.reference_shift,
            "evals": self.evals,
            "reference": self.reference,
            "start": self.start,
            **({"balance": self.balance.state()} if self.balance else {}),
            **({"baselines": self.baselines.state()} if self.baselines.known else {}),
            **({"calibration": self.calibration.state()} if self.calibration else {}),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.algorithm = make(self.algorithm.name, state["algorithm"])
        self.best_step = state["best_step"]
        self.best_reward = -math.inf if state["best_reward"] is None else state["best_reward"]
        self.stopped = state["stopped"]
        self.sampler_agrees = state["sampler_agrees"]
        self.reference_shift = state["reference_shift"]
        self.evals = list(state["evals"])
        self.reference, self.start = state["reference"], state["start"]
        if self.balance:
            self.balance = self.balance.restored(state["balance"])
        self.baselines = Baselines.restored(state.get("baselines", {}))
        if self.calibration:
            self.calibration = self.calibration.restored(state["calibration"])
