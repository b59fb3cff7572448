"""Writes run folders as stages do, for tests of the pages that show them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefloop import record

CONFIG = {
    "project": {"name": "a project", "seed": 0, "store": "postgresql://ann:secret@db/x"},
    "align": {"algorithm": "ppo", "steps": 20, "lr": 3e-4, "evaluation": {"kl_budget": 25.0}},
}


def align_run(
    root: Path,
    steps: int = 8,
    *,
    done: bool = True,
    config: Mapping[str, Any] | None = None,
    drift: float = 0.0,
    clip: float = 0.05,
) -> record.Run:
    """A run of PPO with an evaluation every four steps. clip: its clip fraction, 0.3 of which is healthy at most."""
    settings = {**CONFIG, "align": {**CONFIG["align"], **(config or {})}}
    inputs = {"policy": "p", "reference": "p", "rewards": {"quality": "r"}, "prompts": "one", "round": 0}
    run = record.begin_run(root, "align", json.dumps([settings, drift]), settings, inputs=inputs, seed=0)
    run.note("steps", 20)
    for step in range(steps + 1):
        metrics: dict[str, float] = {}
        if step:
            metrics = {"reward": 0.1 * step + drift, "kl": 0.5 * step, "entropy": 0.6, "length": 20.0, "ended": 1.0}
            metrics |= {"clip_fraction": clip, "explained_variance": 0.4, "policy_loss": 0.01, "value_loss": 0.2}
            run.timing(step, {"rollout": 1.0, "learn": 2.0})
        if step % 4 == 0:
            metrics |= {"eval_reward": 0.1 * step + drift, "eval_kl": 0.5 * step, "eval_judge": 0.5, "eval_ended": 1.0}
        run.metric(step, metrics)
    if done:
        run.finish(
            {"steps": steps, "best_step": steps, "reward": 0.8, "kl": 4.0, "win_rate": 0.7, "stopped": "all done"}
        )
    return run


def reward_run(root: Path, people: Sequence[Mapping[str, Any]] = ()) -> record.Run:
    inputs = {"rankings": "r", "criterion": "quality", "round": 0}
    run = record.begin_run(root, "reward", "f", CONFIG, inputs=inputs, seed=0)
    for step in range(1, 6):
        run.metric(step, {"loss": 3.0 / step, "grad_norm_reward": 1.0, "examples": 8.0})
    if people:
        record.write_json_atomic(run.path / "evidence.json", {"people": list(people)})
    pair = {"share": 0.45, "pairs": 300}
    heldout = {
        "criterion": "quality", "accuracy": 0.66, "low": 0.58, "high": 0.73, "pairs": 300, "prompts": 60, "ties": 4,
        "longer_wins": pair, "longer_won": {"share": 0.7, "pairs": 140}, "shorter_won": {"share": 0.62, "pairs": 160},
        "by_margin": [
            {"low": 0.5, "high": 1.0, "pairs": 120, "accuracy": 0.58},
            {"low": 1.0, "high": None, "pairs": 180, "accuracy": 0.72},
            {"low": 0.0, "high": 0.5, "pairs": 0, "accuracy": None},
        ],
        "calibration": [
            {"low": 0.5, "high": 0.6, "votes": 150, "predicted": 0.55, "observed": 0.52},
            {"low": 0.8, "high": 0.9, "votes": 50, "predicted": 0.84, "observed": 0.78},
        ],
        "ece": 0.04, "log_loss": 0.62,
    }  # fmt: skip
    run.finish({"criterion": "quality", "round": 0, "rankings": 400, "heldout": heldout, "train_accuracy": 0.74})
    return run


def sample(step: int, number: int, text: str, kind: str = "eval", **more: Any) -> dict[str, Any]:
    """A line of samples.jsonl. Each word is a token."""
    tokens = [word if n == 0 else f" {word}" for n, word in enumerate(text.split())]
    found = {"step": step, "kind": kind, "id": f"p{number}", "prompt": f"Question {number}?", "text": text}
    found |= {"reward": 0.1 * number, "length": len(tokens), "ended": True, "kl": 0.5 * number, "tokens": tokens}
    return found | {"token_kl": [0.2 * n for n in range(len(tokens))]} | more
