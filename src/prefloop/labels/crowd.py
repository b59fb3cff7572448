"""Simulated annotators: a mixture of careful, weak and bad ones, who judge by a hidden true quality.

The utility of a completion to an annotator is u = beta * quality + length_bias * log(characters) + position_bias /
place + Gumbel noise. Ordering by u is an exact draw from Plackett-Luce, so beta * (gap in quality) is the logit of a
Bradley-Terry choice. Neighbours closer than `tie_threshold` are tied. One judge without noise would hide
over-optimisation (Dubois et al. 2023, AlpacaFarm), and therefore these annotators are noisy and disagree. The kinds
are:

    careful        beta is 1
    weak           beta is 1/2 and the biases are the same, so they sway this kind relatively more
    coin           answers with noise only, within seconds
    display_order  keeps the order shown, within seconds; this kind finds missing shuffles and default-order bugs
    inverted       turns a careful order upside down

The size of the biases was measured with the default mixture, quality independent of length, and lengths spread as in
public chat pairs (sd of the log ratio 1.2). A length_bias of 0.5, 1.0 and 1.2 prefers the longer text in 56, 62 and 64
% of pairs; people prefer it in 64 % (AlpacaFarm). The default is milder, so that a demonstration is not about length.
The completion shown first is preferred in 52 %. Skips, abandoned leases and double submits are not simulated, because
they are about the annotation service and not about preference.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from prefloop.config import Crowd
from prefloop.errors import ConfigError, DataError
from prefloop.labels.ranking import tiers_from_scores
from prefloop.types import Completion, Item, Ranking, digest

Kind = Literal["careful", "weak", "coin", "display_order", "inverted"]
KINDS: tuple[Kind, ...] = ("careful", "weak", "coin", "display_order", "inverted")
BETA: dict[Kind, float] = {"careful": 1.0, "weak": 0.5, "coin": 0.0, "display_order": 0.0, "inverted": 1.0}
DURATION_SIGMA = 0.5  # the standard deviation of log seconds
SPAMMER_SECONDS = (3.0, 6.0)


@dataclass(frozen=True)
class Annotator:
    """Describes one simulated person. The biases are in logits, as is quality times beta."""

    name: str
    kind: Kind
    beta: float
    length_bias: float
    position_bias: float
    tie_threshold: float

    @property
    def spammer(self) -> bool:
        """Whether this person answers without reading."""
        return self.kind in ("coin", "display_order")


def make_crowd(crowd: Crowd, seed: int) -> list[Annotator]:
    """Return `crowd.annotators` people in the shares of the mixture, rounded by largest remainder.

    Shares are relative: they need not sum to one. If the mixture has careful people at all, at least one is made.
    `seed` decides who works under which number, so that no kind always comes first. Raises ConfigError.
    """
    shares = {kind: float(getattr(crowd, kind)) for kind in KINDS}
    total = sum(shares.values())
    if total <= 0:
        raise ConfigError("[crowd]: every share of the mixture is 0. Set careful = 0.7, or any other share above 0.")
    counts = _largest_remainder({kind: share / total * crowd.annotators for kind, share in shares.items()})
    if shares["careful"] > 0 and counts["careful"] == 0:
        counts[max(counts, key=lambda kind: counts[kind])] -= 1
        counts["careful"] = 1
    kinds = [kind for kind in KINDS for _ in range(counts[kind])]
    np.random.default_rng(int(digest("crowd", seed), 16)).shuffle(kinds)
    return [_annotator(kind, number, crowd) for number, kind in enumerate(kinds, start=1)]


def _largest_remainder(exact: Mapping[Kind, float]) -> dict[Kind, int]:
    # The small number makes 0.7 * 10 count as 7, not as 6.999...
    counts = {kind: math.floor(value + 1e-9) for kind, value in exact.items()}
    left = round(sum(exact.values())) - sum(counts.values())
    for kind in sorted(exact, key=lambda kind: counts[kind] - exact[kind])[:left]:
        counts[kind] += 1
    return counts


def _annotator(kind: Kind, number: int, crowd: Crowd) -> Annotator:
    name = f"sim-{kind.replace('_', '-')}-{number:03d}"
    if kind in ("coin", "display_order"):
        return Annotator(name, kind, BETA[kind], 0.0, 0.0, crowd.tie_threshold if kind == "coin" else 0.0)
    return Annotator(name, kind, BETA[kind], crowd.length_bias, crowd.position_bias, crowd.tie_threshold)


def quality_scale(items: Sequence[Item], quality: Mapping[str, float], quality_sd: float) -> float:
    """Return the factor for quality at which its gaps within items have a standard deviation of `quality_sd` logits.

    It pools all pairs of all items about zero, because the sign of a gap is arbitrary. It is 0 where no item has a gap.
    Keep the factor across rounds, so that the same people see that a policy improved. Raises DataError, which names a
    completion without a finite quality.
    """
    gaps = [a - b for item in items for a, b in itertools.combinations(_qualities(item, quality), 2)]
    spread = math.sqrt(sum(gap * gap for gap in gaps) / len(gaps)) if gaps else 0.0
    return quality_sd / spread if spread > 0 else 0.0


def _qualities(item: Item, quality: Mapping[str, float]) -> list[float]:
    """Return the quality of each completion in order; [] for an item that cannot be ranked."""
    if len(item.completions) < 2:
        return []
    values = [quality.get(completion.id, math.nan) for completion in item.completions]
    for completion, value in zip(item.completions, values, strict=True):
        if not math.isfinite(value):
            raise DataError(
                f"completion {completion.id} has no finite quality (got {quality.get(completion.id)}), "
                "so a simulated crowd cannot rank it. Make the scorer return a number for every text."
            )
    return values


def simulate(
    items: Sequence[Item], quality: Mapping[str, float], crowd: Crowd, seed: int, *, scale: float | None = None
) -> list[Ranking]:
    """Return rankings of every item with at least two completions by `crowd.overlap` different annotators.

    quality: the hidden true quality of each completion id, in any unit
    scale:   logits for a unit of quality; None means `quality_scale` of these items

    Who ranks an item, what they see and what they answer depends on (seed, item, annotator) and the scale, not on the
    other items or their order. Raises DataError (quality) and ConfigError (overlap, mixture).
    """
    annotators = make_crowd(crowd, seed)
    if crowd.overlap > len(annotators):
        raise ConfigError(
            f"[crowd]: overlap = {crowd.overlap} needs as many different people, but annotators = {len(annotators)}. "
            "Raise annotators or lower overlap."
        )
    if scale is None:
        scale = quality_scale(items, quality, crowd.quality_sd)
    rankings: list[Ranking] = []
    for item in items:
        logits = {c.id: q * scale for c, q in zip(item.completions, _qualities(item, quality), strict=False)}
        if logits:
            rng = np.random.default_rng(int(digest("crowd", seed, item.id), 16))
            chosen = rng.choice(len(annotators), size=crowd.overlap, replace=False)
            rankings += [rank(item, annotators[a], logits, crowd.criterion, seed) for a in sorted(chosen)]
    return rankings


def rank(item: Item, annotator: Annotator, logits: Mapping[str, float], criterion: str, seed: int) -> Ranking:
    """Return one annotator's answer about one item whose completions have these qualities, in logits."""
    rng = np.random.default_rng(int(digest("crowd", seed, item.id, annotator.name), 16))
    shown = [item.completions[k] for k in rng.permutation(len(item.completions))]
    noise = rng.gumbel(size=len(shown))
    seconds = _seconds(annotator, len(shown), rng)
    if annotator.kind == "display_order":
        tiers: tuple[tuple[str, ...], ...] = tuple((completion.id,) for completion in shown)
    else:
        tiers = tiers_from_scores(_utilities(annotator, shown, logits, noise), annotator.tie_threshold)
    return Ranking(
        item_id=item.id,
        annotator=annotator.name,
        criterion=criterion,
        tiers=tiers[::-1] if annotator.kind == "inverted" else tiers,
        shown=tuple(completion.id for completion in shown),
        duration_s=seconds,
        simulated=True,
    )


def _utilities(
    annotator: Annotator, shown: Sequence[Completion], logits: Mapping[str, float], noise: NDArray[np.float64]
) -> dict[str, float]:
    utilities: dict[str, float] = {}
    # A person finds equal texts equal: they share the utility of the first one, and tie.
    by_text: dict[str, float] = {}
    for place, completion in enumerate(shown, start=1):
        utility = annotator.beta * logits[completion.id] + float(noise[place - 1])
        utility += annotator.length_bias * math.log(max(1, len(completion.text))) + annotator.position_bias / place
        utilities[completion.id] = utility if annotator.spammer else by_text.setdefault(completion.text, utility)
    return utilities


def median_seconds(k: int) -> float:
    """Return a person's median time for a list of k: 37 s for a pair, 95 s for four, linear between and beyond."""
    return 29.0 * k - 21.0


def _seconds(annotator: Annotator, k: int, rng: np.random.Generator) -> float:
    if annotator.spammer:
        return round(float(rng.uniform(*SPAMMER_SECONDS)), 1)
    return round(float(rng.lognormal(math.log(median_seconds(k)), DURATION_SIGMA)), 1)
