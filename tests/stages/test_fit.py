"""The loop of optimiser steps that `sft`, `reward` and `align --algorithm dpo` share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from resumable import build

from prefloop.project.project import Project
from prefloop.record import find_run
from prefloop.stages import sft, train_offline, train_reward


@pytest.mark.parametrize(
    ("name", "stage", "owner", "measures", "times"),
    [
        ("sft", sft.sft, sft, "heldout_loss", 1),
        ("reward", train_reward.reward, train_reward, "score_items", 2),  # held-out lists, and some it learnt from
        ("align", lambda project: train_offline.train_offline(project, 0), train_offline._Lists, "accuracy", 1),
    ],
)
def test_what_the_last_step_was_measured_at_is_the_result(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    stage: Callable[[Project], Any],
    owner: Any,
    measures: str,
    times: int,
) -> None:
    build(tmp_path / "project", with_reward=False)
    measure, asked = getattr(owner, measures), []

    def counted(*given: Any) -> Any:
        asked.append(given)
        return measure(*given)

    monkeypatch.setattr(owner, measures, counted)
    settings = ["sft.eval_every=1000", "reward.eval_every=1000", "align.eval_every=1000", "align.algorithm=dpo"]
    with Project.open(tmp_path / "project", settings, quiet=True) as project:
        stage(project)
        run = find_run(project.root, name)
        assert run is not None and len(asked) == times
        seen = {key: value for key, value in run.metrics()[-1].items() if key.startswith("heldout_")}
        found = run.result | {f"heldout_{key}": v for key, v in run.result.get("heldout", {}).items()}
        assert seen and seen == {key: found[key] for key in seen}
