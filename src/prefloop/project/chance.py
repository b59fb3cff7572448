"""Warns about reward models of a project that are not known to tell better from worse. It loads no model."""

from __future__ import annotations

from collections.abc import Sequence

from prefloop import record
from prefloop.diagnose.reward_model import at_chance
from prefloop.project.project import Project
from prefloop.results import TrainedReward
from prefloop.store import ModelRow


def chance_warnings(project: Project, models: Sequence[ModelRow]) -> list[str]:
    """Return one sentence for each reward model that is not known to tell better from worse.

    It is at chance, or was never measured.
    """
    said = []
    for row in models:
        run = record.Run(project.root / record.RUNS / (row.run_id or row.version))
        trained = TrainedReward.read(run.result)
        said.append(at_chance(trained.heldout if trained else None, f'{row.version} ("{row.criterion}")'))
    return [warning for warning in said if warning]
