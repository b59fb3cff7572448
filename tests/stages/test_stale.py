"""`[align.rollout] staleness = 1`: stale samples are corrected with the probabilities they were drawn with."""

from __future__ import annotations

from pathlib import Path

import pytest
from resumable import build

from prefloop.project.project import Project
from prefloop.record import find_run
from prefloop.stages.align import align
from prefloop.training import keeping


def test_the_ratio_is_to_the_policy_that_sampled_even_where_the_sampler_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "AGREES", -1.0)
    root = tmp_path / "project"
    build(root, with_reward=True)
    settings = [
        "align.algorithm=grpo",
        "align.rollout.k=3",
        "align.steps=4",
        "align.evaluation.eval_every=9",
        "align.lr=1e-2",
    ]
    settings += ["align.average=0", "align.checkpoint_every=9", "align.rollout.staleness=1"]
    with Project.open(root, settings, quiet=True) as project:
        align(project)
        run = find_run(root, "align")
        assert run is not None
        first, *late = [line for line in run.metrics() if "staleness" in line]
    assert first["staleness"] == 0 and first["first_ratio"] == pytest.approx(1.0, abs=1e-5)
    assert [line["staleness"] for line in late] == [1, 1, 1]
    assert all(line["stale_kl"] > 1e-6 for line in late)
