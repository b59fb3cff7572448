"""Planted spammers and an adversary, known only by the orders they give, are found in a crowd as often as stated."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import mean

import numpy as np
import pytest

from prefloop.labels.annotators import AnnotatorReport, annotator_report
from prefloop.labels.crowd import Annotator, quality_scale, rank
from prefloop.types import Item

from .worlds import attach, blank

PLANTED = ("coin", "coin", "display", "inverted", "longest")
CROWD = ("careful",) * 5 + ("noisy",) * 2 + PLANTED
MAKE: dict[str, Callable[[str], Annotator]] = {
    "careful": lambda name: Annotator(name, "careful", 1.0, 0.5, 0.1, 0.3),
    "noisy": lambda name: Annotator(name, "weak", 0.5, 0.5, 0.1, 0.3),
    "coin": lambda name: Annotator(name, "coin", 0.0, 0.0, 0.0, 0.3),
    "display": lambda name: Annotator(name, "display_order", 0.0, 0.0, 0.0, 0.0),
    "inverted": lambda name: Annotator(name, "inverted", 1.0, 0.5, 0.1, 0.3),
    "longest": lambda name: Annotator(name, "careful", 0.0, 1000.0, 0.0, 0.0),
}


def planted_crowd(count: int, k: int, seed: int, share: float = 0.3) -> list[Item]:
    """Return `count` lists of k with ties, `share` of them by exactly 3 of twelve people and the rest by 1.

    Nobody is timed: a spammer who waits before the next click must be found too.
    """
    people = [MAKE[kind](f"{n:02}-{kind}") for n, kind in enumerate(CROWD)]
    made, quality = blank(count, k, seed)
    scale = quality_scale(made, quality, 2.4)
    truth = {id: scale * q for id, q in quality.items()}
    rng = np.random.default_rng(seed)
    said = []
    for n, item in enumerate(made):
        for who in rng.choice(len(people), size=3 if n < share * count else 1, replace=False):
            said.append(replace(rank(item, people[who], truth, "quality", seed), duration_s=None))
    return attach(made, said)


@dataclass(frozen=True)
class Found:
    """Holds what came of one crowd.

    weights: by kind
    missed:  planted, and not suspected
    accused: {kind: suspected}
    """

    report: AnnotatorReport
    weights: dict[str, list[float]]
    missed: list[str]
    accused: dict[str, int]

    @property
    def in_order(self) -> bool:
        """Return whether upside down is below chance, chance below noisy, noisy below careful, by the mean of each
        kind.
        """
        chance = self.weights["coin"] + self.weights["display"] + self.weights["longest"]
        kinds = (self.weights["inverted"], chance, self.weights["noisy"], self.weights["careful"])
        means = [mean(kind) for kind in kinds]
        return means == sorted(means)


def look(items: list[Item]) -> Found:
    report = annotator_report(items, "quality")
    weights: dict[str, list[float]] = defaultdict(list)
    accused: dict[str, int] = defaultdict(int)
    for p in report.people:
        kind = p.annotator.split("-")[1]
        weights[kind].append(p.reliability.weight)
        accused[kind] += bool(p.suspicions)
    missed = [p.annotator for p in report.people if p.annotator.split("-")[1] in PLANTED and not p.suspicions]
    return Found(report, weights, missed, accused)


@pytest.mark.parametrize("seed", [0, 1])
def test_planted_people_are_suspected_for_what_they_do_and_no_careful_one_is(seed: int) -> None:
    found = look(planted_crowd(800, 4, seed))
    assert found.report.enough and found.in_order
    assert found.weights["inverted"][0] < 0
    assert not found.missed
    assert found.accused["careful"] == found.accused["noisy"] == 0
    kinds = {p.annotator.split("-")[1]: {e.kind for e in p.suspicions} for p in found.report.people}
    assert kinds["inverted"] == {"upside down"}
    assert "order shown" in kinds["display"] and "length" in kinds["longest"] and kinds["coin"] == {"coin"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "count, k, least", [(150, 4, 65), (300, 4, 85), (600, 4, 90), (1200, 4, 95), (600, 2, 60), (1200, 2, 70)]
)
def test_how_often_planted_people_are_found(count: int, k: int, least: int) -> None:
    """Twenty crowds of each size; `pytest -s` prints the row that docs/annotators.md quotes.

    least: of the 100 planted ones. A coin among few overlapping pairs cannot be told from a noisy person.
    """
    crowds = [look(planted_crowd(count, k, seed)) for seed in range(100, 120)]
    planted = len(PLANTED) * len(crowds)
    caught = planted - sum(len(f.missed) for f in crowds)
    negative = sum(f.weights["inverted"][0] < 0 for f in crowds)
    in_order = sum(f.in_order for f in crowds)
    careful, noisy = (sum(f.accused[kind] for f in crowds) for kind in ("careful", "noisy"))
    means = {kind: mean(w for f in crowds for w in f.weights[kind]) for kind in MAKE}
    by_kind = {kind: sum(f.accused[kind] for f in crowds) for kind in MAKE}
    print(
        f"\n| {count} lists of {k} | {negative} of 20 | {in_order} of 20 | {caught} of {planted} | "
        f"{careful} of {5 * 20} | {noisy} of {2 * 20} |",
        "weights " + ", ".join(f"{kind} {value:.2f}" for kind, value in means.items()),
        f"suspected {by_kind}",
    )
    assert negative >= 19 and in_order >= 15
    assert caught >= least
    assert careful + noisy <= 1
