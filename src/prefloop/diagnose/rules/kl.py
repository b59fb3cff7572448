"""The distance from the reference."""

from __future__ import annotations

import numpy as np

from prefloop.diagnose.finding import Expected
from prefloop.diagnose.records import RunRecord
from prefloop.diagnose.registry import Seen, rule

SAID_BY_BAI = 0.001  # the smallest coefficient that a publication calls enough (Bai 2022)


def starts_at_reference(run: RunRecord) -> bool:
    return run.inputs.get("policy") == run.inputs.get("reference")


def moved_unseen(run: RunRecord) -> bool:
    """Return whether updates move the policy while its KL to the reference stays at 0, in its first steps as later."""
    kl, moved = run.series("kl_k3"), run.series("approx_kl")
    if kl is None or moved is None or len(kl) < 4:
        return False
    return float(np.abs(kl.values).max()) < 1e-5 and float(np.abs(moved.values).max()) > 1e-5


@rule(
    "kl-not-zero-at-start",
    kind="invariant",
    reads=("eval_kl_k3",),
    severity="error",
    expected=Expected("0", "nats", "k3", "a sequence", "the policy is the reference before the first update"),
    broke="A policy that starts as the reference is at distance 0 from it.",
    meaning="Both models have the same weights, so that they give the same log-probabilities to the same text.",
    cannot_tell="Whether the policy or the reference is read wrongly.",
)
def kl_not_zero_at_start(run: RunRecord) -> Seen | None:
    kl = run.series("eval_kl_k3")
    if kl is None or not starts_at_reference(run) or kl.steps[0] != 0:
        return None
    base = run.series("kl_baseline")
    exact = run.setting("model", "dtype", default="float32") == "float32"
    allowed = max(1e-4 if exact else 1e-3, 3 * float(base.values[0]) if base else 0.0)
    if abs(kl.values[0]) <= allowed:
        return None
    return Seen(
        f"KL is {kl.values[0]:.3g} nats a sequence before the first update, where it must be 0", 0, kl.values[0]
    )


@rule(
    "kl-negative",
    kind="invariant",
    reads=("kl", "kl_k3"),
    severity="error",
    expected=Expected("0 or more, up to sampling noise", "nats", "k1", "a sequence", "KL is never negative"),
    broke="The mean log-ratio of a policy's own samples to the reference is not negative.",
    meaning="k1 averages to the KL where the samples are the policy's own. A negative mean says that they are not.",
    cannot_tell="A single negative step is noise of the k1 estimator; the rule asks for most of the last steps.",
)
def kl_negative(run: RunRecord) -> Seen | None:
    k1, k3 = run.series("kl"), run.series("kl_k3")
    if k1 is None or k3 is None or len(k1) < 4 or len(k1) != len(k3):
        return None
    off = (k1.values < -0.1) & (-k1.values > 0.25 * k3.values)
    since = k1.since(off)
    if since is None or k1.last > -0.1:
        return None
    return Seen(f"KL by k1 is {k1.last:.2f} nats a sequence while k3 says {k3.last:.2f}", since, k1.last)


@rule(
    "kl-far",
    kind="level",
    reads=("kl", "length"),
    heldout=True,
    expected=Expected(
        "under 50 a sequence; or under 25 and 1 a token",
        "nats",
        "k1",
        "a sequence, and a token",
        "N+ 2024 (runs at 50 and 85 were over-optimised); axolotl (0 to 0.5 a token is healthy, over 2 red)",
    ),
    broke="A policy stays where its reward model has seen answers.",
    meaning="Far from the reference a reward model scores what it never saw anybody rank.",
    cannot_tell="Whether the distance was needed: a long answer is far away by moving a little at every token.",
)
def kl_far(run: RunRecord) -> Seen | None:
    kl, length = run.series("kl"), run.series("length")
    if kl is None or length is None or len(kl) != len(length):
        return None
    each = kl.values / np.maximum(length.values, 1)
    off = (kl.values > 50) | ((kl.values > 25) & (each > 1)) | ((kl.values > 8) & (each > 2))
    since = kl.since(off)
    if since is None:
        return None
    return Seen(f"KL is {kl.last:.1f} nats a sequence, {np.median(each[-3:]):.2f} a token", since, kl.last)


@rule(
    "kl-budget-spent-early",
    kind="level",
    reads=("eval_kl",),
    expected=Expected("spent in the second half of the steps, or never", "nats", "k1", "a sequence", "our rule"),
    broke="The budget of KL lasts as long as the steps that were asked for.",
    meaning="The run stopped far from the reference before it had done half of its steps.",
    cannot_tell="A budget that was set too low looks the same as a policy that moves too fast.",
)
def kl_budget_spent_early(run: RunRecord) -> Seen | None:
    kl, budget, steps = run.series("eval_kl"), run.align("kl_budget"), run.align("steps")
    if kl is None or not budget or not steps or kl.values[-1] <= budget or kl.steps[-1] > 0.5 * steps:
        return None
    said = f"the budget of {budget:g} nats was spent at step {kl.steps[-1]} of {steps}, at KL {kl.values[-1]:.1f}"
    return Seen(said, int(kl.steps[-1]), kl.values[-1])


@rule(
    "kl-weak",
    kind="setting",
    reads=("kl_coefficient",),
    expected=Expected(
        "0.001 to 0.2", "reward a nat", "the coefficient", "a token", "Bai 2022 (0.001), Coste 2024 (0.01), TRL (0.05)"
    ),
    broke="Something holds the policy near its reference.",
    meaning="Without a KL term, and without a reward that can be trusted everywhere, nothing keeps the policy from "
    "going where the reward model is wrong.",
    cannot_tell="For a reward that is checked by a program the field trains without KL, and is right to.",
)
def kl_weak(run: RunRecord) -> Seen | None:
    coefficient = run.series("kl_coefficient")
    if coefficient is None or run.align("reward"):
        return None
    low = coefficient.values < SAID_BY_BAI
    since = coefficient.since(low)
    if since is None:
        return None
    value = float(coefficient.values[-1])
    said = "there is no KL term" if value == 0 else f"the KL coefficient is {value:.2g}"
    return Seen(f"{said}, and the reward is a learnt one", since, value)


@rule(
    "kl-controller-stuck",
    kind="level",
    reads=("kl_coefficient", "kl"),
    expected=Expected("KL within half and twice the target", "nats", "k1", "a sequence", "Ziegler 2019"),
    broke="An adaptive controller brings the KL to its target.",
    meaning="The coefficient has gone one way for the whole run and the KL never came near the target.",
    cannot_tell="A run that is too short for the horizon looks the same.",
)
def kl_controller_stuck(run: RunRecord) -> Seen | None:
    target, beta, kl = run.option("kl_target", 0), run.series("kl_coefficient"), run.series("kl")
    if not target or run.align("calibrate_kl") or beta is None or kl is None or len(beta) < 6:
        return None  # A target that follows from the judge moves, and so does the coefficient.
    moves = np.diff(beta.values)
    one_way = bool((moves >= 0).all() or (moves <= 0).all())
    near = (kl.values > 0.5 * target) & (kl.values < 2 * target)
    if not one_way or near[-max(3, len(near) // 3) :].any() or near.mean() > 0.2:
        return None
    side = "under" if kl.last < target else "over"
    said = (
        f"KL stays {side} its target of {target:g} nats (last {kl.last:.2f}), while the coefficient went from "
        f"{beta.values[0]:.3g} to {beta.values[-1]:.3g}"
    )
    return Seen(said, int(kl.steps[0]), kl.last)


@rule(
    "kl-jumped",
    kind="level",
    reads=("kl",),
    expected=Expected("grows over tens of steps", "nats", "k1", "a sequence", "our rule"),
    broke="A policy moves a little with every step.",
    meaning="Most of the distance was covered within one or two steps, in which the samples were the old policy's.",
    cannot_tell="What made it jump: the learning rate, a spike of the gradient, or a jackpot of the reward.",
)
def kl_jumped(run: RunRecord) -> Seen | None:
    kl, began = run.series("kl"), run.series("eval_kl")
    if kl is None or len(kl) < 3:
        return None
    start = float(began.values[0]) if began is not None and began.steps[0] == 0 else 0.0
    grown = np.diff(kl.values, prepend=start)
    limit = max(5.0, 0.4 * float(kl.values.max() - start))
    jumped = grown > limit
    if not jumped.any():
        return None
    place = int(np.argmax(jumped))
    if float(np.median(kl.values[place:])) < start + 0.5 * limit:  # a single step that came back is noise of k1
        return None
    said = f"KL went up by {grown[place]:.1f} nats in one step, to {kl.values[place]:.1f}"
    return Seen(said, int(kl.steps[place]), float(kl.values[place]))
