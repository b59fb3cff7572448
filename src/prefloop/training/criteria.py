"""The scorer that a round is optimised and evaluated by, as `[align]` says: reward models, a function, or several."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefloop.errors import ConfigError, suggest
from prefloop.intervals import part_interval, wilson
from prefloop.project.project import Project
from prefloop.record import Run
from prefloop.results import Constraint
from prefloop.rewards.criteria import CriteriaScorer
from prefloop.rewards.model import ModelScorer
from prefloop.rewards.objective import Criterion, Goal, Parts
from prefloop.rewards.rules import RuleScorer
from prefloop.store import ModelRow
from prefloop.training.reward_scores import make_scorer, reference_answers

OWN = "reward"  # what the function of [align] reward is called where it is one of several criteria
NOTED = "criteria"  # where the manifest of a run keeps mean and standard deviation of what functions measure


@dataclass(frozen=True)
class Criteria:
    """What answers are scored by. Making it checks the names, before a run begins.

    own:       the function that takes the place of the reward models ([align] reward)
    functions: those of [align.objective] scorers, and `own`, where an objective has several criteria
    """

    project: Project
    models: Sequence[ModelRow]
    own: RuleScorer | None
    functions: Mapping[str, RuleScorer]

    @classmethod
    def of(cls, project: Project, models: Sequence[ModelRow], own: RuleScorer | None) -> Criteria:
        """Raises ConfigError for a criterion that nothing measures, or where an objective lacks another one."""
        settings = project.config.align.objective
        functions = {name: project.scorer(spec) for name, spec in settings.scorers.items()}
        made = cls(project, models, own, functions | ({OWN: own} if own else {}))
        if made.plain:
            return made
        judged = [str(m.criterion or m.version) for m in models]
        if twice := sorted(set(settings.scorers) & {*judged, *([OWN] if own else [])}):
            by = "is what [align] reward is called" if own else "a reward model measures already"
            raise ConfigError(
                f"[align.objective] scorers names {', '.join(twice)}, which {by}. Give the scorer another name."
            )
        known = [*judged, *made.functions]
        named = {"maximise": [settings.maximise] if settings.maximise else [], "subject_to": [*settings.subject_to]}
        for key, names in named.items():
            for name in names:
                if name not in known:
                    raise ConfigError(
                        f'[align.objective] {key} names "{name}", which nothing measures. There are '
                        f"{', '.join(known)}: train a reward model of it, or name a function in scorers."
                        f"{suggest(name, known)}"
                    )
        if unknown := sorted(set(project.config.align.reward_weights) - set(known)):
            raise ConfigError(f"[align] reward_weights names {', '.join(unknown)}, but there are {', '.join(known)}")
        counted = [c for c in made._criteria({}) if c.weight]
        if not counted:
            raise ConfigError(
                "[align.objective] leaves nothing to maximise: every criterion has a bound, or the weight 0. Name one "
                "more in scorers, or take a bound out."
            )
        if settings.kind == "worst" and len(counted) == 1:
            raise ConfigError(
                f'[align.objective] kind = "worst" would have no effect: {counted[0].name} is the only criterion that '
                "counts. Train a reward model of another one, or name a function in scorers."
            )
        return made

    @property
    def plain(self) -> bool:
        """Whether there is no more to it than the weighted sum of reward models, or a function in their place."""
        settings = self.project.config.align.objective
        return settings.kind == "sum" and not settings.scorers

    def inputs(self) -> dict[str, Any]:
        """Return what decides the outcome of a run beside the settings and the reward models."""
        scorers = self.project.config.align.objective.scorers
        return {"scorers": {name: self.functions[name].identity for name in scorers}} if scorers else {}

    def scorer(self, run: Run | None = None) -> ModelScorer | RuleScorer:
        """Return the scorer. run: keeps the units of what functions measure, so that they stay when it is resumed."""
        if self.plain:
            return self.own or make_scorer(self.project, list(self.models))
        noted = run.manifest.get(NOTED) if run else None
        units = noted or self._units()
        if run:
            run.note(NOTED, units)
        goal = Goal(self.project.config.align.objective.kind, tuple(self._criteria(units)))
        weights = {c.name: c.weight for c in goal.criteria}
        judges = make_scorer(self.project, list(self.models), weights) if self.models else ModelScorer([])
        return CriteriaScorer(judges, self.functions, goal)

    def _criteria(self, units: Mapping[str, Mapping[str, float]]) -> list[Criterion]:
        align = self.project.config.align
        objective = align.objective
        names = [*(str(m.criterion or m.version) for m in self.models), *self.functions]
        bounds = objective.subject_to if objective.bounded else {}
        free = [name for name in names if name not in bounds]
        if objective.bounded and objective.maximise:
            weights = {objective.maximise: 1.0}
        else:
            weights = align.reward_weights or {name: 1.0 / len(free) for name in free}
        ordered = [*bounds, *free]  # Bounds are kept in the order of the settings.
        return [
            Criterion(
                name, weights.get(name, 0.0) if name in free else 0.0, bounds.get(name), **units.get(name, {})
            )
            for name in ordered
        ]  # fmt: skip

    def _units(self) -> dict[str, dict[str, float]]:
        """Return mean and standard deviation of what each function says of the reference's answers."""
        if not self.functions:
            return {}
        prompts, answers = reference_answers(self.project, "align: samples to scale the scorers on")
        found = {}
        for name, function in self.functions.items():
            values = list(function.score(prompts, answers).total)
            std = statistics.pstdev(values)
            if not std:
                self.project.say(
                    f"warning: {name} is {values[0]:g} for all {len(values)} answers of the reference, so that it has "
                    "no spread to be measured by: it counts in its own unit"
                )
            found[name] = {"mean": statistics.fmean(values), "std": std or 1.0}
        return found


def constraints_of(goal: Goal, parts: Parts, k: int = 1, resamples: int = 2000, seed: int = 0) -> dict[str, Constraint]:
    """Return how each criterion with a bound does over prompts. k: answers of a prompt, which are neighbours."""
    found = {}
    for c in goal.bounds:
        assert c.bound is not None
        values = [list(parts[c.name][at : at + k]) for at in range(0, len(parts[c.name]), k)]
        seen = part_interval(values, resamples, seed)
        met = seen["low"] >= c.bound
        found[c.name] = Constraint(c.bound, seen["mean"], seen["low"], seen["high"], len(values), met)
    return found


def out_of_reach(goal: Goal, parts: Parts) -> list[str]:
    """Return the bounds on shares that these prompts could not show to be kept, even if every answer kept them.

    parts: the values of each prompt's answer.  A criterion counts as a share if each of them is 0 or 1.
    """
    found = []
    for c in goal.bounds:
        assert c.bound is not None
        n = len(parts[c.name])
        most = wilson(n, n)[0]
        if not set(parts[c.name]) <= {0.0, 1.0} or most >= c.bound:
            continue
        if c.bound >= 1:
            found.append(
                f"{c.name} is 0 or 1 for each answer, so that its mean cannot be shown to be {c.bound:g} by any number "
                "of prompts: lower the bound"
            )
            continue
        needed = math.ceil(c.bound / (1 - c.bound) * n * (1 / most - 1))  # of n answers that are all 1, n / (n + z**2)
        found.append(
            f"{n} validation prompts cannot show that {c.name} is {c.bound:g}: if every answer kept it, the interval "
            f"would still begin at {most:.3g}. It takes {needed} prompts ([align.evaluation] eval_prompts), or a lower "
            "bound"
        )
    return found


def shown_constraints(constraints: Mapping[str, Constraint]) -> str:
    """Return them for the end of a line: mean, interval, and whether the bound is kept."""
    return "".join(
        f", {name} {c.mean:.3g} ({c.low:.3g} to {c.high:.3g}) for {c.bound:g}: {'met' if c.met else 'not met'}"
        for name, c in constraints.items()
    )
