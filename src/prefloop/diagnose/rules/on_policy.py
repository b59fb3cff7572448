"""What must hold for samples to be the policy's own."""

from __future__ import annotations

import numpy as np

from prefloop.diagnose.finding import Expected
from prefloop.diagnose.records import RunRecord
from prefloop.diagnose.registry import Seen, rule

TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2, "float16": 1e-2}  # nats; float32 gives 1e-5, bfloat16 1e-2


BEGINNING = 3  # steps; the first of Adam is large whatever the gradient is


def tolerance(run: RunRecord) -> float:
    return TOLERANCE.get(str(run.setting("model", "dtype", default="float32")), 1e-4)


@rule(
    "first-ratio",
    kind="invariant",
    reads=("first_ratio",),
    severity="error",
    expected=Expected("1, to 1e-4 in float32", "ratio", "mean", "a token", "37 details of PPO; slime's own checks"),
    broke="The first update of a step is on policy: its ratio is exactly 1.",
    meaning="The same weights read the same tokens twice, and did not say the same. Every update is then biased.",
    cannot_tell="Whether the first or the second reading is the wrong one.",
)
def first_ratio(run: RunRecord) -> Seen | None:
    ratio = run.series("first_ratio")
    if ratio is None:
        return None
    off = np.abs(ratio.values - 1) > tolerance(run)
    if off.mean() < 0.2:
        return None
    worst = float(ratio.values[np.argmax(np.abs(ratio.values - 1))])
    return Seen(f"the ratio of the first update is {worst:.5g} instead of 1", int(ratio.steps[np.argmax(off)]), worst)


@rule(
    "sampler-mismatch",
    kind="invariant",
    reads=("eval_sampler_mismatch",),
    severity="error",
    expected=Expected(
        "under 1e-4 in float32, 0.02 in bfloat16 (mean under 0.1 with another engine)",
        "nats",
        "largest difference",
        "a token",
        "our invariant; axolotl (mean under 0.1), NeMo-RL (1.01 to 1.02)",
    ),
    broke="The sampler's log-probabilities are the learner's.",
    meaning="What was sampled is not what is learnt from, so that the ratio and the KL mean something else.",
    cannot_tell="Which of both is wrong; the slope and the mean of the difference help.",
)
def sampler_mismatch(run: RunRecord) -> Seen | None:
    gap = run.series("eval_sampler_mismatch")
    if gap is None:
        return None
    off = gap.values > 10 * tolerance(run)
    if not off.any():
        return None
    return Seen(
        f"sampler and learner differ by up to {gap.values.max():.3g} nats at a token",
        gap.since(off),
        float(gap.values.max()),
    )


@rule(
    "sampler-mismatch-grows",
    kind="level",
    reads=("eval_sampler_mismatch",),
    severity="error",
    expected=Expected("as before the first update", "nats", "largest difference", "a token", "NeMo-RL, prime-rl"),
    broke="The sampler has the learner's newest weights.",
    meaning="Both agreed before the first update and part afterwards: the sampler does not get the updates.",
    cannot_tell="Whether it gets none of them or gets them late.",
)
def sampler_mismatch_grows(run: RunRecord) -> Seen | None:
    gap = run.series("eval_sampler_mismatch")
    if gap is None or len(gap) < 2 or gap.steps[0] != 0 or gap.values[0] > tolerance(run):
        return None
    off = gap.values > 100 * tolerance(run)
    if not off[-1]:
        return None
    return Seen(
        f"the difference grew from {gap.values[0]:.2g} to {gap.values[-1]:.2g} nats", gap.since(off), gap.values[-1]
    )


@rule(
    "stale",
    kind="level",
    reads=("stale_kl",),
    expected=Expected("under 0.01", "nats", "k1", "a token, between sampler and learner", "Tinker cookbook; TRL 0.02"),
    broke="Samples that are one update behind are nearly on policy.",
    meaning="With [align.rollout] staleness the sampler is one update behind: harmless while updates are small.",
    cannot_tell="It sees the mean; single tokens may be far off.",
)
def stale(run: RunRecord) -> Seen | None:
    gap = run.series("stale_kl")
    if gap is None:
        return None
    off = np.abs(gap.values) > 0.02
    since = gap.since(off)
    return None if since is None else Seen(f"stale samples are {gap.last:.3g} nats a token off", since, gap.last)


@rule(
    "update-large",
    kind="level",
    reads=("approx_kl",),
    expected=Expected(
        "under 0.01",
        "nats",
        "k1 or k3 of the update",
        "a token, old to new policy",
        "Tinker (0.01), Spinning Up (0.015)",
    ),
    broke="One update changes the policy a little.",
    meaning="Clipping and importance ratios are approximations that hold near the policy that sampled.",
    cannot_tell="Whether the rate, the number of passes, or the size of the advantages is too large.",
)
def update_large(run: RunRecord) -> Seen | None:
    moved = run.series("approx_kl")
    if moved is None:
        return None
    size = np.abs(moved.values)
    since, huge = moved.since(size > 0.02), size >= 0.1
    lasts = len(moved) >= BEGINNING and (since is not None or huge.sum() > 1 or huge[BEGINNING:].any())
    if not lasts and size.max() < 0.5:
        return None
    worst, first = float(size.max()), int(moved.steps[np.argmax(size > 0.02)])
    return Seen(f"an update moves the policy by up to {worst:.3g} nats a token", first, worst)


@rule(
    "clip-many",
    kind="level",
    reads=("clip_fraction",),
    expected=Expected(
        "under 0.1; over 0.3 is red", "share", "mean", "tokens of an update", "axolotl; RLOO study (0.05)"
    ),
    broke="Few tokens leave the clipping range.",
    meaning="A clipped token gives no gradient: the batch is used up, or the step is too large.",
    cannot_tell="Which of the two.",
)
def clip_many(run: RunRecord) -> Seen | None:
    share = run.series("clip_fraction")
    if share is None:
        return None
    since = share.since(share.values > 0.25)
    return None if since is None else Seen(f"{share.last:.0%} of the tokens are clipped", since, share.last)


@rule(
    "ratio-off",
    kind="level",
    reads=("ratio",),
    expected=Expected(
        "about 1; 0.1, 2 or 1000 is wrong", "ratio", "mean", "tokens of an update", "TRL's PPO page; verl"
    ),
    broke="The mean ratio of an update is about 1.",
    meaning="Ratios far from 1 make importance weights explode.",
    cannot_tell="A mean hides single tokens.",
)
def ratio_off(run: RunRecord) -> Seen | None:
    ratio = run.series("ratio")
    if ratio is None:
        return None
    off = (ratio.values > 1.5) | (ratio.values < 0.67)
    if off.sum() < 1:
        return None
    worst = float(ratio.values[np.argmax(np.abs(np.log(np.maximum(ratio.values, 1e-9))))])
    return Seen(f"the mean ratio of a step was {worst:.3g}", int(ratio.steps[np.argmax(off)]), worst)


@rule(
    "sampler-tilted",
    kind="invariant",
    reads=("eval_sampler_gap",),
    severity="error",
    expected=Expected("0", "nats", "mean difference", "a token", "our invariant"),
    broke="The sampler's distribution is the learner's.",
    meaning="The sampler is systematically more or less sure of its tokens than the learner, before any update.",
    cannot_tell="A temperature, a cut of the distribution (top-p, top-k) and a wrong template all tilt it.",
)
def sampler_tilted(run: RunRecord) -> Seen | None:
    gap = run.series("eval_sampler_gap")
    if gap is None or gap.steps[0] != 0 or abs(gap.values[0]) <= 5 * tolerance(run):
        return None
    more = "more" if gap.values[0] > 0 else "less"
    return Seen(
        f"the sampler is {more} sure of its tokens than the learner, by {abs(gap.values[0]):.3g} nats",
        0,
        float(gap.values[0]),
    )
