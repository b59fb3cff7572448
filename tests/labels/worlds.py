"""Makes items with a hidden true quality, ranked by a simulated crowd; the annotator model must find the quality
again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from prefloop.config import Crowd
from prefloop.labels.crowd import Annotator, quality_scale, rank, simulate
from prefloop.types import Completion, Item, Prompt, Ranking

ADVERSARY_MIX: dict[str, Any] = {"careful": 0.55, "weak": 0.2, "coin": 0.1, "display_order": 0.05, "inverted": 0.1}


def blank(items: int, k: int, seed: int = 0) -> tuple[list[Item], dict[str, float]]:
    """Return unranked items, and a standard normal quality of each completion."""
    rng = np.random.default_rng(seed)
    made, quality = [], {}
    for n in range(items):
        texts = [f"answer {n} {c} " + "x" * int(rng.integers(1, 60)) for c in range(k)]
        made.append(
            Item(f"i{n}", Prompt(f"question {n}"), tuple(Completion(f"i{n}:{c}", t) for c, t in enumerate(texts)))
        )
        quality |= {c.id: float(rng.normal()) for c in made[-1].completions}
    return made, quality


def crowded(
    items: int, k: int, overlap: int, *, seed: int = 0, annotators: int = 20, **mixture: Any
) -> tuple[list[Item], dict[str, float]]:
    """Return items ranked by `labels.crowd`, and the true quality in logits of a careful person."""
    made, quality = blank(items, k, seed)
    crowd = Crowd(annotators=annotators, overlap=overlap, **mixture)
    scale = quality_scale(made, quality, crowd.quality_sd)
    return attach(made, simulate(made, quality, crowd, seed)), {id: scale * q for id, q in quality.items()}


def planted(
    betas: list[float], items: int, k: int, overlap: int, *, gap_sd: float = 2.4, seed: int = 0
) -> tuple[list[Item], dict[str, float]]:
    """Return items ranked by people p00, p01, ... of these sensitivities, without other biases."""
    made, quality = blank(items, k, seed)
    scale = quality_scale(made, quality, gap_sd)
    truth = {id: scale * q for id, q in quality.items()}
    people = [Annotator(f"p{n:02}", "careful", beta, 0.0, 0.0, 0.2) for n, beta in enumerate(betas)]
    rng = np.random.default_rng(seed)
    rankings = [
        rank(item, people[n], truth, "quality", seed)
        for item in made
        for n in sorted(rng.choice(len(people), size=overlap, replace=False))
    ]
    return attach(made, rankings), truth


def attach(items: list[Item], rankings: list[Ranking]) -> list[Item]:
    of_item: dict[str, list[Ranking]] = {}
    for ranking in rankings:
        of_item.setdefault(ranking.item_id, []).append(ranking)
    return [replace(item, rankings=tuple(of_item.get(item.id, ()))) for item in items]


def one(*tiers: str, who: str = "x", item: str = "i", shown: str = "") -> Ranking:
    """Return a ranking; one("a", "bc") has a above b and c, which tie."""
    return Ranking(item, who, "quality", tuple(tuple(tier) for tier in tiers), shown=tuple(shown))


def letters(*rankings: Ranking, id: str = "i", of: str = "abcde") -> Item:
    return Item(id, Prompt(id), tuple(Completion(c, c) for c in of), rankings)
