"""`sft`, `reward` and `align --algorithm dpo` share one loop of optimiser steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from resumable import build

from prefloop.algorithms.sft import Sft
from prefloop.config_section import Optimiser
from prefloop.engine import Training
from prefloop.engine.base import Term
from prefloop.engine.scripted import ScriptedEngine
from prefloop.project.project import Project
from prefloop.record import find_run
from prefloop.stages import sft, train_offline, train_reward
from prefloop.training.fit import fit
from prefloop.training.loop import Schedule
from tiny_models import TINY_MODEL, random_rows


@pytest.mark.parametrize(
    ("name", "stage", "owner", "measures", "times"),
    [
        ("sft", sft.sft, sft, "heldout_loss", 1),
        # These are held-out lists, and some that it learnt from.
        ("reward", train_reward.reward, train_reward, "score_items", 2),
        ("align", lambda project: train_offline.train_offline(project, 0), train_offline.OfflineLists, "accuracy", 1),
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
    settings = [
        "sft.eval_every=1000",
        "reward.eval_every=1000",
        "align.evaluation.eval_every=1000",
        "align.algorithm=dpo",
    ]
    with Project.open(tmp_path / "project", settings, quiet=True) as project:
        stage(project)
        run = find_run(project.root, name)
        assert run is not None and len(asked) == times
        seen = {key: value for key, value in run.metrics()[-1].items() if key.startswith("heldout_")}
        found = run.result | {f"heldout_{key}": v for key, v in run.result.get("heldout", {}).items()}
        assert seen and seen == {key: found[key] for key in seen}


def test_a_loop_that_was_broken_off_goes_on_from_its_checkpoint_to_the_same_numbers(tmp_path: Path) -> None:
    """The engine is scripted: what is tried is the loop itself, its checkpoints, evaluations and what they carry."""

    def trained(root: Path, stop_at: int = 99) -> Any:
        root.mkdir(exist_ok=True)
        (root / "prefloop.toml").write_text(TINY_MODEL)
        engine = ScriptedEngine(training=Training(Optimiser(lr=0.1), 6, {"policy": 0.1}, average=0.9))
        carried: dict[str, Any] = {"seen": []}

        def terms(step: int) -> list[Term]:
            if step == stop_at:
                raise KeyboardInterrupt
            return [Term(random_rows(seed=step), Sft())]

        def evaluate(step: int) -> dict[str, float]:
            carried["seen"].append(step)
            return {"held": float(engine.forward("policy", random_rows(seed=99)).sum())}

        with Project.open(root, quiet=True) as project:
            run = project.begin("sft", "the same", {})
            schedule = Schedule(6, eval_every=4, checkpoint_every=2)
            last = fit(project, run, engine, terms, schedule, evaluate=evaluate, label="x", carried=carried)
            return last, run.metrics(), carried

    straight = trained(tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "broken", stop_at=5)
    assert trained(tmp_path / "broken") == straight
    assert straight[2] == {"seen": [4, 6]} and len({line["loss"] for line in straight[1]}) == 6
    assert straight[0] == {"held": straight[1][-1]["held"]}
