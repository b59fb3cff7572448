"""Scores by several criteria that `[align.objective]` names: reward models, and functions beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prefloop.config_align import Objective
from prefloop.rewards.base import Scorer, Scores
from prefloop.rewards.model import ModelScorer
from prefloop.rewards.objective import Balance, Goal
from prefloop.types import Completion, Prompt


class CriteriaScorer(ModelScorer):
    """Scores by the goal of an objective. `parts` has every criterion: a reward model's value is normalised, a
    function's is in its own unit.
    """

    def __init__(self, judges: ModelScorer, functions: Mapping[str, Scorer], goal: Goal):
        """Take over the reward models of `judges`, and score as it does."""
        super().__init__(judges.reward_models, judges.token_budget, judges.device, judges.offload)
        self.functions, self.goal = functions, goal

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Scores:
        """Return what is maximised, and the value of each criterion."""
        judged = super().score(prompts, completions)
        measured = {name: by.score(prompts, completions).total for name, by in self.functions.items()}
        parts = {**judged.parts, **measured}
        return Scores(self.goal.total(parts).tolist(), parts, judged.cut)


def balance_of(scorer: Scorer, settings: Objective) -> Balance | None:
    """Return the state of an objective with bounds before the first step; None where it has none."""
    if not isinstance(scorer, CriteriaScorer) or not scorer.goal.bounds:
        return None
    s = settings
    return Balance(scorer.goal, s.multiplier_lr, s.multiplier_gain, s.multiplier_max, s.multiplier_start, s.window)
