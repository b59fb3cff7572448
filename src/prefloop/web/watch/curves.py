"""Makes the figures of a run: which metrics stand together, what is healthy, and where findings begin."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from prefloop.diagnose.finding import Finding
from prefloop.diagnose.records import RunRecord, Series
from prefloop.known_algorithms import is_offline
from prefloop.report.metrics import explain
from prefloop.web.watch.looking import speed
from prefloop.web.watch.plot import Axis, Bound, Line, Mark, figure, plot, sample_of, ticks

# The panels in order; what else a run logs follows below a heading.
FIRST = (
    "reward", "judge", "kl", "reward_*", "objective", "constraint_*", "violation_*", "multiplier_*",
    "entropy", "length", "ended", "clip_fraction", "approx_kl", "explained_variance",
    "value_loss", "policy_loss", "grad_norm_*", "reward_std", "distinct_2", "win_rate", "constant_groups", "loss",
    "accuracy", "heldout_log_loss", "implicit_reward",
)  # fmt: skip
SHARES = frozenset(
    (
        "ended", "clip_fraction", "value_clip_fraction", "win_rate", "distinct_2", "repetition", "commonest", "skipped",
        "constant_groups", "accuracy", "reward_cut", "explained_variance",
    )
)  # fmt: skip
# One figure has a line for each model or criterion.
FAMILIES = ("grad_norm_", "constraint_", "violation_", "multiplier_", "reward_")
NO_CRITERION = ("reward_std", "reward_max", "reward_cut")
# What a rule of the diagnosis, or the table of metrics, says in words; None is an open end.
HEALTHY: Mapping[str, Bound] = {
    "reward_std": (1e-3, None),
    "entropy": (0.1, None),
    "ended": (0.95, 1.0),
    "reward_cut": (0.0, 0.0),
    "sampler_mismatch": (0.0, 0.02),
    "first_ratio": (0.9999, 1.0001),
    "stale_kl": (0.0, 0.01),
    "ratio": (0.5, 2.0),
    "clip_fraction": (0.0, 0.3),
    "approx_kl": (0.0, 0.01),
    "explained_variance": (0.0, 1.0),
    "constant_groups": (0.0, 0.8),
    "skipped": (0.0, 0.0),
    "accuracy": (0.5, 1.0),
    "heldout_log_loss": (None, 0.693),
}
# Ranges as multiples of the first value of the run.
RELATIVE: Mapping[str, Bound] = {"length": (0.5, 1.5), "distinct_2": (0.45, None)}
_NO_CURVES = frozenset({"not_finite", "sequences", "examples", "staleness"})


@dataclass(frozen=True)
class Entry:
    """A line of a legend. last: its newest figure."""

    sample: Markup
    name: str
    last: str


@dataclass(frozen=True)
class Panel:
    """One figure. findings: numbers of the findings that are marked in it."""

    name: str
    title: str
    unit: str
    meaning: str
    healthy: str
    picture: Markup
    legend: tuple[Entry, ...]
    findings: tuple[int, ...] = ()


def panel_of(name: str) -> str:
    """Return the panel of a metric: a held-out figure stands beside the one of training, all criteria together."""
    bare = name.removeprefix("eval_")
    if bare in ("heldout_loss", "heldout_accuracy"):
        return bare.removeprefix("heldout_")
    family = next((prefix for prefix in FAMILIES if bare.startswith(prefix) and bare not in NO_CRITERION), None)
    return f"{family}*" if family else bare


def line_name(name: str) -> str:
    """Return what a metric's line is called in its panel."""
    held_out = name.startswith(("eval_", "heldout_"))
    bare = name.removeprefix("eval_")
    if (panel := panel_of(name)).endswith("*"):
        return bare.removeprefix(panel[:-1]) + (", held-out" if held_out else "")
    return "held-out" if held_out else "training"


def panels(run: RunRecord, findings: Sequence[Finding] = ()) -> tuple[list[Panel], list[Panel]]:
    """Return (the figures one looks at, all others) of a run, from what it has logged so far."""
    grouped: dict[str, list[str]] = {}
    for name in sorted(run.metrics, key=lambda name: (name.startswith(("eval_", "heldout_")), name)):
        if name.removeprefix("eval_") not in _NO_CURVES and len(run.metrics[name]):
            grouped.setdefault(panel_of(name), []).append(name)
    begun = _begun(findings, set(grouped))
    order = [name for name in FIRST if name in grouped]
    order += [n for n in grouped if n not in FIRST and n in begun]  # What is marked is looked at.
    made = [_panel(run, name, grouped[name], begun.get(name, [])) for name in order]
    against = reward_against_kl(run)
    if against is not None:
        made.insert(1, against)
    if (pace := _speed(run)) is not None:
        made.append(pace)
    rest = [name for name in grouped if name not in order]
    return made, [_panel(run, name, grouped[name], []) for name in rest]


def _begun(findings: Sequence[Finding], known: set[str]) -> dict[str, list[tuple[int, int, str]]]:
    """Return panel -> (step, number of the finding, severity). Without a figure: at the reward."""
    found: dict[str, list[tuple[int, int, str]]] = {}
    for number, finding in enumerate(findings, 1):
        for symptom in finding.symptoms:
            if symptom.since is None:
                continue
            name = panel_of(symptom.signal)
            place = name if name in known else "reward" if "reward" in known else "loss"
            mark = (symptom.since, number, symptom.severity)
            if mark not in found.setdefault(place, []):
                found[place].append(mark)
    return found


def _panel(run: RunRecord, name: str, metrics: Sequence[str], begun: Sequence[tuple[int, int, str]]) -> Panel:
    lines = [Line(line_name(metric), *points(run.metrics[metric])) for metric in metrics]
    title, unit, meaning, healthy = described(name)
    band = healthy_range(run, name, metrics)
    share = name in SHARES
    marks = [Mark(step, str(number), severity) for step, number, severity in begun]
    alt = f"{title} by step. " + " ".join(_first_last(line, share) for line in lines)
    return Panel(
        name,
        title,
        "" if share else unit,
        meaning,
        healthy,
        plot(lines, alt, band=band, marks=marks, share=share, reach=(0, run.steps)),
        legend(lines, share, run.steps),
        tuple(dict.fromkeys(number for _, number, _ in begun)),
    )


def points(series: Series) -> tuple[list[float], list[float]]:
    return [float(step) for step in series.steps], [float(value) for value in series.values]


def legend(lines: Sequence[Line], share: bool, steps: int | None = None) -> tuple[Entry, ...]:
    """Return the newest figure of each line.

    steps: of the run; a figure of training that ends before, because it became no number, has its step
    """
    found = []
    for n, line in enumerate(lines):
        if line.y:
            ended = steps is not None and line.name == "training" and line.x[-1] < steps
            last = figure(line.y[-1], share) + (f" at step {line.x[-1]:g}, none since" if ended else "")
            found.append(Entry(sample_of(n), line.name, last))
    return tuple(found)


def _first_last(line: Line, share: bool) -> str:
    first, last = figure(line.y[0], share), figure(line.y[-1], share)
    return f"{line.name}: {first} at step {line.x[0]:g}, {last} at step {line.x[-1]:g}."


def described(name: str) -> tuple[str, str, str, str]:
    """Return (title, unit, meaning, healthy range with its source) of a panel."""
    metric = explain(name.replace("*", "x")) or explain(f"heldout_{name}")
    if metric is None:
        return name.strip("_*").replace("_", " ").capitalize(), "", "", ""
    healthy = "" if metric.healthy == "-" else metric.healthy
    source = "" if metric.source == "-" or not healthy else f" ({metric.source})"
    return metric.title, metric.unit.strip("-"), metric.meaning, healthy + source


def healthy_range(run: RunRecord, name: str, metrics: Iterable[str]) -> Bound | None:
    """Return the range that is shaded; None where nobody says one in numbers."""
    if name == "kl":
        online = not is_offline(str(run.align("algorithm", "")))
        budget = run.align("kl_budget")
        return (0.0, float(budget)) if online and isinstance(budget, (int, float)) else None
    if name in RELATIVE:
        firsts = [float(run.metrics[metric].values[0]) for metric in metrics]
        low, high = RELATIVE[name]
        first = firsts[-1]
        return None if low is None else low * first, None if high is None else high * first
    return HEALTHY.get(name)


def reward_against_kl(run: RunRecord) -> Panel | None:
    """Return held-out reward by the distance moved, on a square-root scale; None with fewer than two evaluations."""
    line = _against_kl(run, "held-out")
    return None if line is None else against([line], "Reward against KL")


def _against_kl(run: RunRecord, name: str) -> Line | None:
    reward, kl = run.series("eval_reward"), run.series("eval_kl")
    if reward is None or kl is None:
        return None
    far = dict(zip(kl.steps.tolist(), kl.values.tolist(), strict=True))
    found = [(s, v) for s, v in zip(reward.steps.tolist(), reward.values.tolist(), strict=True) if s in far]
    if len(found) < 2:
        return None
    x = [math.sqrt(max(0.0, far[s])) for s, _ in found]
    names = [f"step {s}, KL {figure(far[s])} nats" for s, _ in found]
    return Line(name, x, [v for _, v in found], names)


def against(lines: Sequence[Line], title: str) -> Panel:
    far = [x * x for line in lines for x in line.x]
    axis = Axis(
        "KL to the reference, nats (square-root scale)",
        [(math.sqrt(t), figure(t)) for t in ticks(min(far), max(far), 4)],
    )
    alt = "Held-out reward by KL. " + " ".join(
        f"{line.name}: from {figure(line.y[0])} at {figure(line.x[0] ** 2)} nats to {figure(line.y[-1])} at "
        f"{figure(line.x[-1] ** 2)} nats."
        for line in lines
    )
    meaning = (
        "Each dot is an evaluation. Healthy optimisation is near a straight line here; where it bends down, more "
        "reward of the reward model no longer means better answers."
    )
    healthy = "near a straight line (Bai 2022)"
    return Panel("reward_kl", title, "", meaning, healthy, plot(lines, alt, x_axis=axis), legend(lines, False))


def _speed(run: RunRecord) -> Panel | None:
    """Return the seconds of each step, whole and by part."""
    total = speed(run.seconds.values())
    if not total:
        return None
    whole = Line("all", [s for s, _ in total], [v for _, v in total])
    parts = [Line(name, *points(series)) for name, series in sorted(run.seconds.items()) if len(series)]
    lines = [whole, *parts] if len(parts) > 1 else [whole]
    alt = "Seconds a step. " + " ".join(_first_last(line, False) for line in lines)
    meaning = (
        "Wall-clock time of each step and of its parts. A step that slows down is a reason to look at the machine."
    )
    return Panel(
        "speed", "Speed", "seconds a step", meaning, "", plot(lines, alt, reach=(0, run.steps)), legend(lines, False)
    )


def overlaid(runs: Sequence[tuple[str, RunRecord]]) -> list[Panel]:
    """Return the figures of several runs laid over each other; held-out figures where there are any."""
    made = []
    lines = [line for name, run in runs if (line := _against_kl(run, name)) is not None]
    for name in FIRST:
        drawn, held_out = [], True
        for called, run in runs:
            series = run.series(f"eval_{name}") or run.series(f"heldout_{name}")
            if series is None or len(series) < 2:
                series, held_out = run.series(name), False
            if series is not None:
                drawn.append(Line(called, *points(series)))
        if drawn:
            title, unit, meaning, healthy = described(name)
            share = name in SHARES
            alt = f"{title} by step. " + " ".join(_first_last(line, share) for line in drawn)
            said = f"{title}, held-out" if held_out and name != "judge" else title
            picture = plot(drawn, alt, band=HEALTHY.get(name), share=share)
            made.append(Panel(name, said, "" if share else unit, meaning, healthy, picture, legend(drawn, share)))
    if len(lines) > 0:
        made.insert(min(1, len(made)), against(lines, "Reward against KL"))
    return made
