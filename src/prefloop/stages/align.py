"""`prefloop align`: to the loop that the algorithm's kind needs."""

from __future__ import annotations

from prefloop.algorithms.registry import kind_of
from prefloop.stages.project import Outcome, Project
from prefloop.stages.train_offline import train_offline
from prefloop.stages.train_policy import train_policy


def align(project: Project, round: int | None = None) -> Outcome:
    """Optimise the policy of a round (by default the newest that was sampled). Raises ConfigError, NothingToDoError."""
    kind = kind_of(project.config.align.algorithm, "online", "offline")
    round = project.latest_round() if round is None else round
    return train_policy(project, round) if kind == "online" else train_offline(project, round)
