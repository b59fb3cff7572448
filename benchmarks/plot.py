"""Draws the figures of docs/performance.md from what the benchmarks wrote with --json.

python benchmarks/plot.py benchmarks/results docs/performance.svg
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

FAMILIES = ("Gemma 3", "GPT-NeoX", "GPT-2")
GOALS = {  # ours / peer, samples a second
    "GRPO, project's policy": 4.0,
    "RLOO, project's policy": 4.0,
    "GRPO, random Llama 5.4 M": 2.5,
    "RLOO, random Llama 5.4 M": 2.5,
    "PPO, K = 8, project's policy": 4.0,
    "PPO, K = 1, project's policy": 4.0,
    "PPO, K = 8, random Llama 5.4 M": 4.0,
    "PPO, K = 1, random Llama 5.4 M": 4.0,
    **{f"GRPO, random {family}": 2.5 for family in FAMILIES},
    **{f"PPO, random {family}": 4.0 for family in FAMILIES},
    "natural lengths": 4.0,
    "random Llama, no end token": 2.0,
    "reward": 4.0,
    "reward, HH pairs": 2.0,
    "dpo": 2.0,
    "SFT": 2.0,
}
NAMES = {
    "natural lengths": "sampling, natural lengths",
    "random Llama, no end token": "sampling, random Llama 5.4 M",
    "reward": "reward model, lists of five",
    "reward, HH pairs": "reward model, HH pairs",
    "dpo": "DPO, lists of five",
}


def rows(folder: Path) -> dict[str, tuple[float, float, float]]:
    """Return ratio, least and most of each work."""
    found: dict[str, tuple[float, float, float]] = {}
    for path in sorted(folder.glob("*.json")):
        for row in json.loads(path.read_text()).get("rows", []):
            name = "reward, HH pairs" if path.stem == "hh" else row.get("work")
            if name in GOALS and "ratios" in row:
                found[name] = (row["ratio"], min(row["ratios"]), max(row["ratios"]))
            elif name in GOALS:
                found[name] = (row["ratio to generate"],) * 3
    return {name: found[name] for name in GOALS if name in found}


def draw(found: dict[str, tuple[float, float, float]], path: Path) -> None:
    figure = Figure(figsize=(9, 0.42 * len(found) + 1.2), layout="constrained")
    place: Any = figure.subplots()
    at = list(range(len(found)))[::-1]
    ratios = [ratio for ratio, _, _ in found.values()]
    place.barh(at, ratios, color="#3b6ea5", height=0.6)
    for y, (name, (ratio, least, most)) in zip(at, found.items(), strict=True):
        place.plot([least, most], [y, y], color="black", linewidth=1)
        place.plot([GOALS[name]] * 2, [y - 0.4, y + 0.4], color="#c0392b", linewidth=2)
        place.text(max(most, GOALS[name]) * 1.04, y, f"{ratio:.2f}", va="center", fontsize=9)
    place.set_yticks(at, [NAMES.get(name, name) for name in found])
    place.set_xscale("log", base=2)
    ticks = [2**n for n in range(10) if 2**n <= max(most for _, _, most in found.values())]
    place.set_xticks(ticks, [str(tick) for tick in ticks])
    place.set_xlim(0.9, 1.5 * max(most for _, _, most in found.values()))
    place.axvline(1, color="black", linewidth=0.8)
    place.set_xlabel("times as many samples a second as the peer; red: the goal; line: least to most over rounds")
    for side in ("top", "right"):
        place.spines[side].set_visible(False)
    figure.savefig(path)


if __name__ == "__main__":
    draw(rows(Path(sys.argv[1])), Path(sys.argv[2]))
