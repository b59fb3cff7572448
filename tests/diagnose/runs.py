"""Healthy and broken runs as plain records, for tests of rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prefloop.diagnose.records import RunRecord, Sample, series_of

STEPS = 14
CONFIG: Mapping[str, Any] = {
    "align": {"algorithm": "ppo", "steps": STEPS, "prompts": 16, "k": 4, "epochs": 1, "minibatches": 4,
              "max_tokens": 64, "kl_budget": 30.0, "reward": None, "staleness": 0},
    "algorithms": {"ppo": {"kl": 0.05}},
    "model": {"dtype": "float32"},
}  # fmt: skip
HEALTHY: Mapping[str, Sequence[float]] = {
    "reward": [0.0 + 0.08 * n for n in range(STEPS)],
    "reward_std": [0.9] * STEPS,
    "reward_max": [2.5] * STEPS,
    "kl": [0.3 * n for n in range(STEPS)],
    "kl_k3": [0.3 * n for n in range(STEPS)],
    "kl_coefficient": [0.05] * STEPS,
    "entropy": [0.45 - 0.005 * n for n in range(STEPS)],
    "length": [30.0 - 0.3 * n for n in range(STEPS)],
    "ended": [1.0] * STEPS,
    "approx_kl": [1e-4] * STEPS,
    "clip_fraction": [0.01] * STEPS,
    "ratio": [1.0] * STEPS,
    "first_ratio": [1.0] * STEPS,
    "explained_variance": [-0.5 + 0.06 * n for n in range(STEPS)],
    "value_loss": [0.4 - 0.02 * n for n in range(STEPS)],
    "value_clip_fraction": [0.0] * STEPS,
    "grad_norm_policy": [0.6] * STEPS,
    "grad_norm_critic": [0.2] * STEPS,
    "skipped": [0.0] * STEPS,
}
AT_EVALUATIONS: Mapping[str, Sequence[float]] = {
    "eval_reward": [0.0, 0.6, 1.1],
    "eval_reward_std": [0.9, 0.8, 0.7],
    "eval_sequences": [48.0] * 3,
    "eval_kl": [0.0, 1.8, 3.6],
    "eval_kl_k3": [0.0, 1.8, 3.6],
    "eval_distinct_2": [0.46, 0.45, 0.45],
    "eval_repetition": [0.0] * 3,
    "eval_commonest": [0.02] * 3,
    "eval_ended": [1.0] * 3,
    "eval_entropy": [0.45, 0.42, 0.39],
    "eval_sampler_mismatch": [5e-6] * 3,
    "eval_judge": [0.5, 0.6, 0.7],
    "eval_judge_std": [0.15] * 3,
    "eval_ranked_accuracy": [0.66],
    "eval_ranked_pairs": [150.0],
}
RATES = {"policy": {"asked": 3e-4, "usual": 3e-4}, "critic": {"asked": 1e-3, "usual": 1e-3}}


def align_run(
    metrics: Mapping[str, Sequence[float]] | None = None, config: Mapping[str, Any] | None = None, **more: Any
) -> RunRecord:
    """A healthy run of PPO, apart from what is named. config: of `[align]`; a metric that is () was never logged."""
    columns = {**HEALTHY, **AT_EVALUATIONS, **(metrics or {})}
    series = {}
    for name, values in columns.items():
        steps = range(0, STEPS + 1, 7) if name.startswith("eval_") else range(1, STEPS + 1)
        if len(values):
            series[name] = series_of(list(zip(steps, values, strict=False)))
    settings = {**CONFIG, "align": {**CONFIG["align"], **(config or {})}}
    given = {"inputs": {"policy": "a", "reference": "a"}, "manifest": {"learning_rates": RATES}, **more}
    return RunRecord("align-001", "align", config=settings, metrics=series, **given)


def samples(texts_by_step: Mapping[int, Sequence[tuple[str, float]]]) -> list[Sample]:
    """Samples of two prompts by turns: (text, reward) by step."""
    return [
        Sample(step, f"prompt {n // 2}", text, reward, len(text.split()), True)
        for step, rows in texts_by_step.items()
        for n, (text, reward) in enumerate(rows)
    ]
