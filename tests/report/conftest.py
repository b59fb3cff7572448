"""Makes finished projects to report on: a real store and real run folders, with results as the stages write them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from prefloop import record
from prefloop.config import CONFIG_NAME
from prefloop.labels.preference_eval import pair_accuracy
from prefloop.project.project import Project
from prefloop.store import ModelRow
from prefloop.types import Completion, Demonstration, Item, Prompt, Ranking

STAGES = ("sft", "sample", "crowd", "reward", "align", "evaluate")
Make = Callable[..., Path]


@pytest.fixture
def make_project(tmp_path: Path) -> Make:
    """Return make(stages=..., rounds=1, criterion="quality", answer="Fine.", judge=False, name="project") -> folder."""

    def make(
        stages: Sequence[str] = STAGES,
        rounds: int = 1,
        criterion: str = "quality",
        answer: str = "It is fine.",
        judge: bool = False,
        name: str = "project",
    ) -> Path:
        root = tmp_path / f"made-{len(list(tmp_path.iterdir()))}"
        root.mkdir()
        (root / CONFIG_NAME).write_text('[project]\nthreads = 1\n[model]\npath = "some/model"\n')
        with Project.open(root, [f"project.name={name}"], quiet=True) as project:
            if "sft" in stages:
                project.store.add([Demonstration(Prompt(f"Question {n}?"), answer) for n in range(4)])
                _finish(project, "sft", {}, _sft_lines(), {"steps": 4, "demonstrations": 4, "too_long": 0,
                        "heldout_loss": 1.25, "heldout_perplexity": 3.49, "model": "runs/sft-001/model"})  # fmt: skip
            for n in range(rounds):
                items = _items(n, criterion, answer, ranked="crowd" in stages)
                if "sample" in stages:
                    project.store.add(items)
                _round(project, stages, n, items, criterion, answer, judge)
        return root

    return make


def _round(
    project: Project, stages: Sequence[str], n: int, items: list[Item], criterion: str, answer: str, judge: bool
) -> None:
    if "sample" in stages:
        _finish(project, "sample", {"round": n}, [], {"round": n, "policy": "base", "prompts": 6, "completions": 18})
    if "crowd" in stages:
        _finish(project, "crowd", {}, [], {"simulated": True, "criterion": criterion, "items": 6, "rankings": 12})
    if "reward" in stages:
        scores = {c.id: float(len(c.text) % 5) for item in items for c in item.completions}
        report = pair_accuracy(scores, items, criterion, resamples=200).to_json() if "crowd" in stages else None
        result = {"criterion": criterion, "round": n, "lists": 6, "rankings": 12, "simulated": 12, "heldout_lists": 6,
                  "normalisation": {"mean": 0.1, "std": 0.9}, "heldout": report, "train_accuracy": 0.75}  # fmt: skip
        lines = [
            {"loss": 3.0 - s / 10, "grad_norm_reward": 2.0, "skipped": 0.0, "heldout_accuracy": 0.5} for s in (1, 2)
        ]
        run = _finish(project, "reward", {"round": n, "criterion": criterion}, lines, result)
        project.store.add_model(ModelRow(run.name, "reward", f"runs/{run.name}/model", criterion=criterion))
    if "align" in stages:
        result = {"steps": 8, "best_step": 6, "reward": 0.6, "reward_before": -0.1, "kl": 5.0, 
                  "stopped": "all steps done", "round": n, "algorithm": "ppo", "model": "m"}  # fmt: skip
        _finish(project, "align", {"round": n}, _align_lines(), result)
    if "evaluate" in stages:
        _finish(project, "evaluate", {"round": n}, [], _evaluation(n, answer, judge))


def _finish(
    project: Project, stage: str, inputs: dict[str, Any], lines: list[dict[str, float]], result: dict[str, Any]
) -> record.Run:
    key = f"{stage}-{inputs}"
    config = project.config.model_dump()
    run = record.begin_run(project.root, stage, key, config, inputs=inputs, seed=project.config.project.seed)
    for step, line in enumerate(lines):
        run.metric(step, line)
        run.timing(step, {"learn": 0.25, "rollout": 0.5})
    run.finish(result)
    return run


def _items(n: int, criterion: str, answer: str, ranked: bool) -> list[Item]:
    """Return six lists of three, each ranked by two simulated people; the last pair of each list is a tie."""
    items = []
    for i in range(6):
        id = f"r{n}i{i}"
        completions = tuple(Completion(f"{id}:c{c}", answer + "!" * (c + i % 2), model="base") for c in range(3))
        ids = [c.id for c in completions]
        tiers = ((ids[0],), (ids[1], ids[2])) if i % 3 else ((ids[2],), (ids[0],), (ids[1],))
        people = [Ranking(id, f"crowd-{p}", criterion, tiers, simulated=True) for p in range(2)] if ranked else []
        items.append(Item(id, Prompt(f"Question {i}?"), completions, tuple(people), round=n, source="sample"))
    return items


def _sft_lines() -> list[dict[str, float]]:
    return [{"loss": 4.0 / (s + 1), "heldout_loss": 4.5 / (s + 1), "skipped": 0.0} for s in range(5)]


def _align_lines() -> list[dict[str, float]]:
    lines = []
    for s in range(9):
        line = {"reward": s / 10, "kl": s / 2, "entropy": 1.5, "length": 30.0, "ended": 0.97, "clip_fraction": 0.02,
                "explained_variance": s / 10, "approx_kl": 1e-3, "first_ratio": 1.0, "ratio": 1.0, "reward_std": 0.9,
                "skipped": 0.0, "value_loss": math.nan if s == 3 else 0.2}  # fmt: skip
        if s % 2 == 0:
            line |= {"eval_reward": s / 12, "eval_kl": s * 0.8, "eval_length": 31.0, "eval_ended": 0.96}
        lines.append(line)
    return lines


def _evaluation(n: int, answer: str, judge: bool) -> dict[str, Any]:
    win = {"mean": 0.7, "low": 0.6, "high": 0.8, "n": 80}
    gain = {"mean": 0.5, "low": 0.2, "high": 0.8, "n": 80}
    figures = {"sequences": 80.0, "reward": 0.0, "reward_std": 1.0, "kl": 0.0, "kl_k3": 0.0, "entropy": 1.5,
               "length": 30.0, "ended": 0.97, "sampler_mismatch": 1e-5, "distinct_1": 0.4,
               "distinct_2": 0.8, "distinct_3": 0.9,
               "length_reward_correlation": 0.1, "reward_quality": 0.0}  # fmt: skip
    after = figures | {"reward": 0.5, "kl": 5.0}
    if judge:
        figures, after = figures | {"judge": 0.6}, after | {"judge": 0.5}
    mode: dict[str, Any] = {"policy": after, "reference": figures, "win_rate": win, "reward_gain": gain}
    if judge:
        mode |= {"judge_win_rate": win, "judge_gain": {"mean": -0.1, "low": -0.2, "high": -0.05, "n": 80}}
    sample = {
        "prompt": f"Prompt: {answer}",
        "policy": {"text": answer, "reward": 0.4},
        "reference": {"text": answer, "reward": -0.4},
    }
    named = {"round": n, "policy": f"align-{n + 1:03d}", "reference": "sft-001", "prompts": 80}
    return named | {"sampled": mode, "greedy": mode, "samples": [sample]}
