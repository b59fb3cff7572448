"""examples/e2e.toml runs as it stands, from real rankings to a report, here with too small a model to learn."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from prefloop.config import CONFIG_NAME, load_config
from prefloop.project.project import Project
from prefloop.stages.run import run

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SMALL = [
    "project.threads=1",
    "project.device=cpu",
    "model.hidden_size=32",
    "model.layers=2",
    "model.heads=2",
    "sft.limit=64",
    "sft.epochs=2",
    "reward.epochs=0.04",
    "reward.normalise_prompts=8",
    "align.steps=2",
    "align.rollout.prompts=4",
    "align.max_tokens=24",
    "align.evaluation.eval_prompts=4",
    "evaluate.prompts=6",
    "evaluate.max_tokens=24",
    "evaluate.bootstrap=100",
]


def test_the_example_has_only_settings_that_exist() -> None:
    config = load_config(EXAMPLES / "e2e.toml")
    assert config.model.init == "scratch"
    assert config.reward.criteria == ("quality", "naturalness")


def test_the_whole_example_runs_on_real_rankings(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "e2e_nlg"
    shutil.copy(EXAMPLES / "e2e.toml", tmp_path / CONFIG_NAME)
    shutil.copy(EXAMPLES / "e2e_checker.py", tmp_path)
    files = [str(folder / name) for name in ("demonstrations.jsonl.gz", "rankings_train.jsonl.gz")]
    with Project.open(tmp_path, [*SMALL, f"run.imports={json.dumps(files)}"], quiet=True) as project:
        stages = {s.stage: s for s in run(project).stages}
        models = stages["reward"].models
        assert set(models) == {"quality", "naturalness"}
        assert all(0.3 < m.heldout.accuracy < 0.9 for m in models.values())
        # A held-out prompt's rankings taught nothing: the lists add up.
        held, total = models["quality"].heldout_lists, 1161
        assert models["quality"].lists + held == total
        assert {"judge", "reward_quality", "reward_naturalness"} <= set(stages["evaluate"].sampled.policy)
        again = {s.stage: s.skipped for s in run(project).stages}
        assert all(again[name] for name in ("sft", "reward", "align", "evaluate"))
