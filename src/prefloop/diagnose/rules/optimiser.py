"""Gradients, skipped steps and learning rates."""

from __future__ import annotations

import numpy as np

from prefloop.diagnose.finding import Expected
from prefloop.diagnose.records import RunRecord, Series
from prefloop.diagnose.registry import Seen, rule
from prefloop.diagnose.statistics import spikes

TRAINS = ("align", "reward", "sft")

FAR = 30  # times the usual learning rate, or a part of it: no adapter wants that


def _norm(run: RunRecord) -> str | None:
    names = [n for n in run.metrics if n.startswith("grad_norm") and n != "grad_norm_critic"]
    return names[0] if names else None


@rule(
    "gradient-spikes",
    kind="level",
    stages=TRAINS,
    expected=Expected(
        "within 20 times its median, and that of the ten steps before",
        "norm",
        "largest",
        "a step",
        "our rule; axolotl (over 10 is unstable, over 100 in SFT)",
    ),
    broke="The gradient has no spikes.",
    meaning="Clipping keeps the step small, but its direction is that of one batch. Steps of less than half of the "
    "usual examples, such as the last of an epoch, are left out.",
    cannot_tell="Which example does it.",
)
def gradient_spikes(run: RunRecord) -> Seen | None:
    name = _norm(run)
    norm = run.series(name) if name else None
    norm = whole_batches(run, norm) if norm is not None else None
    if norm is None or len(norm) < 4:
        return None
    middle = float(np.median(norm.values))
    off = spikes(norm, 20, 5.0)
    if not off.any():
        return None
    return Seen(
        f"the gradient norm reached {norm.values[off].max():.3g}, its median is {middle:.3g}",
        int(norm.steps[np.argmax(off)]),
        float(norm.values[off].max()),
        signal=name,
    )


def whole_batches(run: RunRecord, series: Series) -> Series:
    """The series without steps of less than half of the usual examples: an epoch's last few are a noisy gradient."""
    examples = run.series("examples")
    if examples is None:
        return series
    few = examples.steps[examples.values <= 0.5 * examples.values.max()]
    kept = ~np.isin(series.steps, few)
    return Series(series.steps[kept], series.values[kept])


@rule(
    "gradient-large",
    kind="level",
    stages=TRAINS,
    expected=Expected(
        "0.001 to 10 in policy optimisation, to 100 in SFT; times the answers' length where the loss is a sum (rloo)",
        "norm",
        "median",
        "a step",
        "axolotl, for losses that are a mean over tokens",
    ),
    broke="The gradient has the size that clipping expects.",
    meaning="Every step is clipped to its length: the loss is far too steep, or in the wrong unit.",
    cannot_tell="A reward on a large scale looks like a broken model.",
)
def gradient_large(run: RunRecord) -> Seen | None:
    name = _norm(run)
    norm = run.series(name) if name else None
    limit = 20.0 if run.stage == "align" else 200.0
    if run.align("algorithm") in ("rloo", "reinforce") and (length := run.series("length")) is not None:
        limit *= max(1.0, length.last)
    if norm is None or norm.last <= limit:
        return None
    return Seen(f"the gradient norm is {norm.last:.3g}", norm.since(norm.values > limit), norm.last, signal=name)


@rule(
    "steps-skipped",
    kind="invariant",
    stages=TRAINS,
    reads=("skipped",),
    severity="error",
    expected=Expected("0", "share of updates", "mean", "a step", "our invariant"),
    broke="Every gradient is finite.",
    meaning="An update whose gradient is not finite is left out. Several of them mean that numbers overflow.",
    cannot_tell="Which operation overflows first.",
)
def steps_skipped(run: RunRecord) -> Seen | None:
    skipped = run.series("skipped")
    if skipped is None or skipped.values.sum() == 0:
        return None
    return Seen(
        f"updates were skipped in {np.mean(skipped.values > 0):.0%} of the steps",
        int(skipped.steps[np.argmax(skipped.values > 0)]),
        float(skipped.values.mean()),
    )


@rule(
    "not-finite",
    kind="invariant",
    stages=TRAINS,
    reads=("not_finite",),
    severity="error",
    expected=Expected("0", "metrics", "count", "a step", "our invariant"),
    broke="Every metric is a finite number.",
    meaning="Something is NaN or infinite.",
    cannot_tell="Where it began: look at the first step that has one.",
)
def not_finite(run: RunRecord) -> Seen | None:
    count = run.series("not_finite")
    if count is None:
        return None
    since = int(count.steps[np.argmax(count.values > 0)])
    each_step = {n: s.steps for n, s in run.metrics.items() if not n.startswith(("eval_", "heldout_"))}
    lost = sorted(name for name, steps in each_step.items() if since not in steps and since - 1 in steps)
    first = f"; the first, at step {since}: {', '.join(lost[:4])}" if lost else ""
    said = f"metrics are not finite in {np.mean(count.values > 0):.0%} of the steps{first}"
    return Seen(said, since, float(count.values.max()))


@rule(
    "rate-unusual",
    kind="setting",
    stages=TRAINS,
    severity="note",
    expected=Expected(
        "a quarter to 5 times the default for the model's width",
        "ratio",
        "peak",
        "a run",
        "docs/config.md; docs/log.md",
    ),
    broke="The learning rate fits the width of the model.",
    meaning="A wider model needs a smaller rate; the default follows the width.",
    cannot_tell="Adapters want about ten times as much, so that it is a note up to a factor of 30.",
)
def rate_unusual(run: RunRecord) -> Seen | None:
    for role, (asked, usual) in rates(run).items():
        if role != "critic" and usual and not 0.25 <= asked / usual <= 5:
            return Seen(
                f"the learning rate of the {role} is {asked:g}; {usual:g} is usual for this width",
                None,
                asked / usual,
                signal="lr",
                severity=None if 1 / FAR <= asked / usual <= FAR else "warning",
            )
    return None


def rates(run: RunRecord) -> dict[str, tuple[float, float]]:
    """{role: (asked, usual)} from the manifest; {} of a run whose manifest does not say."""
    noted = run.manifest.get("learning_rates") or {}
    return {
        role: (float(v["asked"]), float(v["usual"])) for role, v in noted.items() if v.get("asked") and v.get("usual")
    }


@rule(
    "loss-rose",
    kind="trend",
    stages=("sft", "reward"),
    reads=("loss",),
    expected=Expected("falls", "nats", "mean", "a step", "our rule"),
    broke="Training brings the loss down.",
    meaning="The loss is higher at the end than at the beginning.",
    cannot_tell="Which of the rate, the data or the numerics it is.",
)
def loss_rose(run: RunRecord) -> Seen | None:
    loss = run.series("loss")
    if loss is None or len(loss) < 6 or loss.last <= 1.15 * loss.first:
        return None
    off = loss.values > 1.15 * loss.first
    return Seen(f"the loss went from {loss.first:.3g} to {loss.last:.3g}", loss.since(off), loss.last)
