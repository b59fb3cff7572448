"""How answers end, and how long they are."""

from __future__ import annotations

import numpy as np

from prefloop.diagnose.finding import Expected
from prefloop.diagnose.records import RunRecord
from prefloop.diagnose.registry import Seen, rule
from prefloop.diagnose.rules.overoptimisation import judge_rose


def may_be_cut(run: RunRecord) -> bool:
    """Return whether answers need no end: the settings say so, or nothing shows that the model knows one."""
    return run.ends is False or run.align("missing_eos") == "off"


@rule(
    "never-ends",
    kind="invariant",
    reads=("ended",),
    severity="error",
    heldout=True,
    expected=Expected("over 0.5 from the first step on", "share", "mean", "answers of a step", "N+ 2024 (over 0.95)"),
    broke="The model that a run starts from ends its answers.",
    meaning="An answer that never ends is cut, punished and learnt from as if it were whole.",
    cannot_tell="Whether the limit is too small or the model has no way to end. It is only noted where answers need no "
    'end: [align.rollout] missing_eos = "off", or a model that nobody has trained to end, or seen to.',
)
def never_ends(run: RunRecord) -> Seen | None:
    ended = run.series("ended")
    if ended is None or ended.first >= 0.5:
        return None
    return Seen(
        f"{ended.first:.0%} of the answers ended by themselves in the first steps",
        int(ended.steps[0]),
        ended.first,
        severity="note" if may_be_cut(run) else None,
    )


@rule(
    "ends-lost",
    kind="level",
    reads=("ended",),
    heldout=True,
    expected=Expected(
        "over 0.8, and within 0.15 of the first steps",
        "share",
        "mean",
        "answers of a step",
        "axolotl (under 0.3 truncated is healthy, over 0.8 red); N+ 2024",
    ),
    broke="Answers go on ending by themselves.",
    meaning="The policy has learnt not to end, or to write until it is cut.",
    cannot_tell="Why: a reward for length looks like a lost end token.",
)
def ends_lost(run: RunRecord) -> Seen | None:
    ended = run.series("ended")
    if ended is None or len(ended) < 4 or ended.first < 0.5:
        return None
    off = (ended.values < 0.8) & (ended.values < ended.first - 0.15)
    since = ended.since(off)
    if since is None:
        return None
    return Seen(f"{ended.last:.0%} of the answers end by themselves, {ended.first:.0%} at first", since, ended.last)


@rule(
    "cut-off",
    kind="level",
    reads=("ended", "length"),
    heldout=True,
    expected=Expected("under 0.3 cut", "share", "mean", "answers of a step", "axolotl"),
    broke="The limit of an answer is longer than its answers.",
    meaning="A cut answer has no end, and the reward model judges half a text.",
    cannot_tell="Whether the answers would ever have ended.",
)
def cut_off(run: RunRecord) -> Seen | None:
    ended, length, limit = run.series("ended"), run.series("length"), run.align("max_tokens")
    if ended is None or length is None or not limit:
        return None
    off = ended.values < 0.7
    since = ended.since(off)
    if since is None or length.last < 0.6 * limit:
        return None
    said = f"{1 - ended.last:.0%} of the answers are cut at {limit} tokens"
    return Seen(said, since, ended.last, severity="note" if may_be_cut(run) else None)


@rule(
    "length-moved",
    kind="level",
    reads=("length",),
    heldout=True,
    expected=Expected(
        "within half of the first steps", "tokens", "mean", "answers of a step", "our rule; Secrets of RLHF"
    ),
    broke="Answers stay about as long as they were, unless length was asked for.",
    meaning="Length is the first thing that a reward model over-rates. It is only noted where an independent judge "
    "finds the answers better.",
    cannot_tell="Whether longer or shorter answers are better here.",
)
def length_moved(run: RunRecord) -> Seen | None:
    length = run.series("length")
    if length is None or len(length) < 4:
        return None
    first = length.first
    off = (length.values > 1.5 * first + 3) | (length.values < 0.5 * first - 1)
    since = length.since(off)
    if since is None:
        return None
    return Seen(
        f"answers went from {first:.0f} to {length.last:.0f} tokens",
        since,
        length.last,
        (0.5 * first, 1.5 * first),
        severity="note" if judge_rose(run) else None,
    )


@rule(
    "reward-cut",
    kind="level",
    reads=("reward_cut",),
    expected=Expected("0", "share", "mean", "answers of a step", "our rule"),
    broke="A reward model reads whole answers.",
    meaning="What stands behind its limit is not judged, and the policy can write anything there.",
    cannot_tell="Whether what was cut matters.",
)
def reward_cut(run: RunRecord) -> Seen | None:
    cut = run.series("reward_cut")
    if cut is None or np.max(cut.values) <= 0.05:
        return None
    return Seen(
        f"the reward model reads {cut.values.max():.0%} of the answers without their end",
        int(cut.steps[np.argmax(cut.values > 0.05)]),
        float(cut.values.max()),
    )
