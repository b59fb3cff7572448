"""Entropy and variety of the answers."""

from __future__ import annotations

import numpy as np

from prefloop.diagnose.collapse import signs
from prefloop.diagnose.finding import Expected, Severity
from prefloop.diagnose.records import RunRecord
from prefloop.diagnose.registry import Seen, rule
from prefloop.diagnose.rules.overoptimisation import judge_rose

_NAMES = ("distinct_2", "repetition", "commonest", "ended", "entropy", "sequences")


@rule(
    "entropy-collapsed",
    kind="level",
    reads=("entropy",),
    heldout=True,
    expected=Expected(
        "over a quarter of the run's own first steps; over a third where it is under 0.1",
        "nats",
        "of the sampled tokens",
        "a token",
        "community rule (0.1); axolotl (0.01 is red)",
    ),
    broke="A policy keeps some doubt about its next token.",
    meaning="A policy without doubt samples one answer again and again, and learns nothing more.",
    cannot_tell="A closed task has little entropy from the start, which is why the first steps count too.",
)
def entropy_collapsed(run: RunRecord) -> Seen | None:
    entropy = run.series("entropy")
    if entropy is None or len(entropy) < 3:
        return None
    share = entropy.values / max(float(entropy.values[0]), 1e-9)
    off = (share < 0.25) | ((entropy.values < 0.1) & (share < 0.34))
    since = entropy.since(off)
    if since is None:
        return None
    return Seen(f"entropy fell from {entropy.values[0]:.2f} to {entropy.last:.3f} nats a token", since, entropy.last)


@rule(
    "entropy-rose",
    kind="level",
    reads=("entropy",),
    expected=Expected(
        "at most half as much again as the first steps", "nats", "of the sampled tokens", "a token", "our rule"
    ),
    broke="A policy that learns becomes more sure, or stays as it was.",
    meaning="Rising entropy says that what was learnt before is being undone.",
    cannot_tell="A policy that was nearly deterministic may rise and be well.",
)
def entropy_rose(run: RunRecord) -> Seen | None:
    entropy = run.series("entropy")
    if entropy is None or len(entropy) < 4:
        return None
    off = (entropy.values > 1.5 * entropy.values[0]) & (entropy.values > entropy.values[0] + 0.2)
    since = entropy.since(off)
    if since is None:
        return None
    return Seen(f"entropy rose from {entropy.values[0]:.2f} to {entropy.last:.2f} nats a token", since, entropy.last)


@rule(
    "variety-lost",
    kind="level",
    reads=("eval_distinct_2",),
    expected=Expected(
        "over 0.45 of what it was before the run",
        "share",
        "distinct-2",
        "all answers",
        "Li 2016; our levels",
    ),
    broke="Different prompts get different answers.",
    meaning="Answers become alike: fewer different word pairs, repetition, or one text for many prompts. It is only "
    "noted where an independent judge finds the answers better, unless they have collapsed.",
    cannot_tell="A better policy may need fewer words; read the answers.",
)
def variety_lost(run: RunRecord) -> Seen | None:
    at = {name: run.series(f"eval_{name}") for name in _NAMES}
    first = {name: float(s.values[0]) for name, s in at.items() if s is not None}
    steps = run.series("eval_distinct_2")
    if steps is None or len(steps) < 2:
        return None
    for place in range(1, len(steps)):
        after = {name: float(s.values[place]) for name, s in at.items() if s is not None and len(s) > place}
        bad = [s for s in signs(after, first) if s.name in ("distinct_2", "repetition", "commonest")]
        strong = [
            s
            for s in bad
            if s.verdict == "collapsed"
            or (s.name == "distinct_2" and s.after < 0.45 * s.before)
            or (s.verdict == "look" and s.name != "distinct_2")
        ]
        if strong:
            worst = strong[0]
            milder: Severity | None = "note" if judge_rose(run) and worst.verdict != "collapsed" else None
            return Seen(worst.said, int(steps.steps[place]), worst.after, signal=f"eval_{worst.name}", severity=milder)
    return None


@rule(
    "reward-spread-lost",
    kind="level",
    reads=("reward_std",),
    expected=Expected(
        "over 0.001, and over a tenth of the first steps",
        "sd of the reference's reward",
        "sd",
        "a step",
        "no spread, no gradient",
    ),
    broke="Answers differ in reward.",
    meaning="Where all answers score alike there is nothing to learn.",
    cannot_tell="Whether the answers are alike or the scorer does not tell them apart.",
)
def reward_spread_lost(run: RunRecord) -> Seen | None:
    spread = run.series("reward_std")
    if spread is None:
        return None
    off = (spread.values < 1e-3) | (spread.values < 0.1 * np.max(spread.values[: spread.head]))
    since = spread.since(off)
    return None if since is None else Seen(f"the rewards of a step spread by {spread.last:.3g}", since, spread.last)
