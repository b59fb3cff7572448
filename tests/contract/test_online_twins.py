"""Each online method without a critic equals a slow twin, which writes its formulas as loops over numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from toy_batches import annotated, outputs, ready, wrap

from prefloop.algorithms.registry import make

KL, LOW, HIGH, DUAL = 0.3, 0.05, 0.09, 1.12
Rows = list[list[tuple[float, ...]]]
CLIP = {"clip": LOW, "clip_high": HIGH, "dual_clip": DUAL}
# Each has a KL in the reward, and a clip that is active on some tokens or rows.
METHODS: dict[str, dict[str, Any]] = {
    "grpo": CLIP,
    "dr_grpo": {**CLIP, "length": 6},
    "dapo": CLIP,
    "gspo": CLIP,
    "cispo": {"clip_high": HIGH},
    "rloo": CLIP,
    "reinforce": CLIP,
    "reinforce_plus_plus": CLIP,
    "reinforce_plus_plus_baseline": {**CLIP, "kl_in": "reward"},
}


def rows_of(batch: Any, *columns: Any) -> Rows:
    """Return the action tokens of each row: one tuple of numbers a token."""
    return [
        [tuple(float(c[n, t]) for c in columns) for t in batch.action[n].nonzero().flatten().tolist()]
        for n in range(len(batch))
    ]


def mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def advantages(name: str, batch: Any) -> list[list[float]]:
    rows = rows_of(batch, batch.old_logp, batch.ref_logp)
    price = [[KL * (old - ref) for old, ref in row] for row in rows]
    score = batch.reward.tolist()
    if name == "reinforce_plus_plus":
        found = [[score[n] - math.fsum(row[t:]) for t in range(len(row))] for n, row in enumerate(price)]
        return whitened(found)
    total = [score[n] - math.fsum(row) for n, row in enumerate(price)]
    if name == "reinforce":
        left = [t - b for t, b in zip(total, batch.baseline.tolist(), strict=True)]
        return [[left[n] - mean(left)] * len(row) for n, row in enumerate(rows)]
    out = []
    for n, r in enumerate(total):
        group = total[n // 4 * 4 : n // 4 * 4 + 4]
        if name == "rloo":
            out.append(r - (math.fsum(group) - r) / 3)
        elif name in ("dr_grpo", "reinforce_plus_plus_baseline"):
            out.append(r - mean(group))
        else:
            out.append((r - mean(group)) / (float(np.std(group, ddof=1)) + 1e-4))
    spread = [[out[n]] * len(row) for n, row in enumerate(rows)]
    return whitened(spread) if name == "reinforce_plus_plus_baseline" else spread


def whitened(rows: list[list[float]]) -> list[list[float]]:
    every = [a for row in rows for a in row]
    return [[(a - mean(every)) / float(np.std(every)) for a in row] for row in rows]


def clipped(ratio: float, advantage: float) -> float:
    held = min(max(ratio, 1 - LOW), 1 + HIGH)
    loss = -min(ratio * advantage, held * advantage)
    return min(loss, -DUAL * advantage) if advantage < 0 else loss


def per_token(row: Any) -> list[float]:
    return [clipped(math.exp(new - old), a) for new, old, a in row]


def of_sequence(row: Any, over: Callable[[list[float]], float]) -> float:
    return clipped(math.exp(over([new - old for new, old, _ in row])), row[0][2])


TWINS: dict[str, tuple[Callable[[Any], float], str]] = {  # The loss of a row, and what the batch's loss is divided by.
    "grpo": (lambda row: mean(per_token(row)), "rows"),
    "dr_grpo": (lambda row: math.fsum(per_token(row)) / 6, "rows"),
    "dapo": (lambda row: math.fsum(per_token(row)), "tokens"),
    "gspo": (lambda row: of_sequence(row, mean), "rows"),
    "cispo": (lambda row: math.fsum(-min(math.exp(new - old), 1 + HIGH) * a * new for new, old, a in row), "tokens"),
    "rloo": (lambda row: of_sequence(row, math.fsum), "rows"),
    "reinforce": (lambda row: of_sequence(row, math.fsum), "rows"),
    "reinforce_plus_plus": (lambda row: math.fsum(per_token(row)), "tokens"),
    "reinforce_plus_plus_baseline": (lambda row: math.fsum(per_token(row)), "tokens"),
}


@pytest.mark.parametrize("name", METHODS)
def test_it_gives_credit_and_loses_as_its_formulas_say(name: str) -> None:
    algorithm, batch = make(name, {"kl": KL, **METHODS[name]}), annotated()
    credited = ready(algorithm, batch)
    assert credited.returns is None and len(credited) == len(batch)
    for ours, theirs in zip(rows_of(credited, credited.advantage), advantages(name, batch), strict=True):
        assert [a for (a,) in ours] == pytest.approx(theirs, abs=1e-6)
    (logp,) = outputs(algorithm, credited)
    loss = algorithm.loss(wrap(algorithm, [logp]), credited)
    row_loss, by = TWINS[name]
    rows = rows_of(credited, logp, credited.old_logp, credited.advantage)
    weight = len(rows) if by == "rows" else sum(map(len, rows))
    metrics = {key: float(total / count) for key, (total, count) in loss.metrics.items()}
    assert float(loss.total) == pytest.approx(math.fsum(map(row_loss, rows)), rel=1e-9)
    assert float(algorithm.weight(credited)) == weight
    assert metrics["policy_loss"] == pytest.approx(float(loss.total) / weight, rel=1e-6)
    assert 0 < metrics["clip_fraction"] < 1
