"""Makes the charts of the page: learning curves, reward against KL, the reward model's accuracy, the demo's quality."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from prefloop.known_algorithms import is_offline
from prefloop.report.charts import INK, MUTED, SERIES, as_share, bars, chart, label, lines
from prefloop.report.collect import points
from prefloop.report.metrics import explain
from prefloop.results import TrainedReward, read_aligned

if TYPE_CHECKING:
    from prefloop.labels.preference_eval import PairReport

PANELS = (
    "reward",
    "kl",
    "length",
    "ended",
    "entropy",
    "distinct_2",
    "win_rate",
    "clip_fraction",
    "approx_kl",
    "explained_variance",
    "constant_groups",
    "kl_coefficient",
    "loss",
    "accuracy",
    "implicit_reward",
)
SHARES = ("ended", "distinct_2", "win_rate", "clip_fraction", "constant_groups", "accuracy")
HELD_OUT = {"accuracy": "heldout_accuracy", "loss": "heldout_loss"}


def learning_curves(run: Mapping[str, Any]) -> list[Markup]:
    """Return training and held-out curves of what an align run logged; its best step marked."""
    metrics, best = run["metrics"], _best_step(run)
    budget = _budget(run)
    made = []
    for name in PANELS:
        metric = explain(name)
        drawn = _curves(metrics, name)
        constant = len({v for _, y in drawn.values() for v in y}) < 2
        if drawn and metric and not (name == "kl_coefficient" and constant):
            limit = (budget, f"budget {budget:g}") if name == "kl" and budget else None
            unit = "" if name in SHARES else metric.unit.strip("-")
            alt = f"{metric.title} by step. " + " ".join(_first_last(key, xy) for key, xy in drawn.items())
            draw = lines(drawn, metric.title, unit, at=best, limit=limit, share=name in SHARES)
            made.append(chart(f"{run['run']}-{name}", alt, draw))
    return made


def _budget(run: Mapping[str, Any]) -> float | None:
    """Return the KL that ends a run; none of an offline one, which no KL ends."""
    settings = run["config"].get("align", {})
    offline = is_offline(settings.get("algorithm", ""))
    return None if offline else settings.get("evaluation", {}).get("kl_budget")


def _best_step(run: Mapping[str, Any]) -> int | None:
    made = read_aligned(run["result"])
    return made.best_step if made else None


def _curves(metrics: Mapping[str, Any], name: str) -> dict[str, tuple[list[float], list[float]]]:
    both = {"training": points(metrics, name), "held-out": points(metrics, f"eval_{name}")}
    if name in HELD_OUT and not both["held-out"][0]:
        both["held-out"] = points(metrics, HELD_OUT[name])
    return {key: xy for key, xy in both.items() if xy[0]}


def _first_last(name: str, xy: tuple[Sequence[float], Sequence[float]]) -> str:
    return f"{name}: {xy[1][0]:.3g} at step {xy[0][0]:g}, {xy[1][-1]:.3g} at step {xy[0][-1]:g}."


def reward_against_kl(run: Mapping[str, Any]) -> Markup | None:
    """Return held-out reward by the distance moved.

    Healthy optimisation is near a straight line in sqrt(KL) (Bai 2022).
    """
    metrics = run["metrics"]
    reward, kl = (
        dict(zip(*points(metrics, "eval_reward"), strict=True)),
        dict(zip(*points(metrics, "eval_kl"), strict=True)),
    )
    steps = sorted(set(reward) & set(kl))
    if len(steps) < 2:
        return None
    x, y = [math.sqrt(max(0.0, kl[s])) for s in steps], [reward[s] for s in steps]
    best, budget = _best_step(run), _budget(run)

    def draw(axes: Any) -> None:
        axes.plot(x, y, color=SERIES[0], marker="o")
        for place in sorted({0, len(steps) - 1} - {steps.index(best) if best in steps else -1}):
            axes.annotate(
                f"step {steps[place]:g}", (x[place], y[place]), xytext=(4, -11), textcoords="offset points",
                fontsize=8, color=MUTED,
            )  # fmt: skip
        if best in steps:
            i = steps.index(best)
            axes.plot(x[i], y[i], marker="*", markersize=13, color=SERIES[1], linestyle="none", zorder=3)
            axes.annotate(
                f"kept: step {best:g}", (x[i], y[i]), xytext=(-9, 2), textcoords="offset points",
                ha="right", fontsize=8, color=SERIES[1],
            )  # fmt: skip
        if budget and math.sqrt(budget) <= 1.5 * max(x):
            axes.axvline(math.sqrt(budget), color=SERIES[1], linewidth=1)
        ticks = [t for t in (0, 0.5, 1, 2, 4, 8, 15, 25, 40, 60, 100, 200) if math.sqrt(t) <= 1.1 * max(x)]
        axes.set_xticks([math.sqrt(t) for t in ticks], [f"{t:g}" for t in ticks])
        axes.margins(x=0.12, y=0.18)
        label(axes, "Reward against distance moved", "KL to the reference, nats (square-root scale)", "held-out reward")

    alt = "Held-out reward by KL: " + "; ".join(f"step {s:g}: {reward[s]:.2f} at {kl[s]:.1f} nats" for s in steps[:12])
    return chart(f"{run['run']}-reward-kl", alt, draw)


def supervised_curve(run: Mapping[str, Any]) -> Markup | None:
    """Return the chart of the loss on training and held-out demonstrations."""
    drawn = {"training": points(run["metrics"], "loss"), "held-out": points(run["metrics"], "heldout_loss")}
    drawn = {key: xy for key, xy in drawn.items() if xy[0]}
    if not drawn:
        return None
    alt = "Loss by step. " + " ".join(_first_last(key, xy) for key, xy in drawn.items())
    return chart(f"{run['run']}-loss", alt, lines(drawn, "Imitating demonstrations", "nats a token"))


def reward_model_figures(run: Mapping[str, Any], agreement: Mapping[str, Any] | None) -> list[Markup]:
    """Return accuracy beside what it should beat, by margin, calibration, and the curve."""
    trained = TrainedReward.read(run["result"])
    made = []
    if trained and trained.heldout and (accuracy := trained.heldout.accuracy) is not None:
        report = trained.heldout
        made.append(_in_context(run, trained, report, accuracy, agreement))
        made += [figure for figure in (_by_margin(run, report), _calibration(run, report)) if figure]
    training = points(run["metrics"], "heldout_accuracy")
    if len(training[0]) > 1:
        alt = "Held-out accuracy by step. " + _first_last("held-out", training)
        draw = lines({"held-out": training}, "Accuracy while training", share=True)
        made.append(chart(f"{run['run']}-accuracy", alt, draw))
    loss = points(run["metrics"], "loss")
    if len(loss[0]) > 1:
        alt = "Training loss by step. " + _first_last("training", loss)
        made.append(chart(f"{run['run']}-loss", alt, lines({"training": loss}, "Training loss", "nats a list or pair")))
    return made


def _in_context(
    run: Mapping[str, Any],
    trained: TrainedReward,
    report: PairReport,
    accuracy: float,
    agreement: Mapping[str, Any] | None,
) -> Markup:
    rows: list[tuple[str, float, tuple[float, float] | None]] = []
    interval = (report.low, report.high) if report.low is not None and report.high is not None else None
    rows.append(("reward model", accuracy, interval))
    if report.longer_wins.share is not None:
        rows.append(("prefer the longer", report.longer_wins.share, None))
    if trained.train_accuracy is not None:
        rows.append(("on training lists", trained.train_accuracy, None))
    if agreement and agreement.get("share") is not None:
        between = (agreement["low"], agreement["high"]) if agreement.get("low") is not None else None
        rows.append(("two annotators", agreement["share"], between))
    alt = "Share of held-out pairs in people's order: " + "; ".join(f"{name} {100 * v:.0f} %" for name, v, _ in rows)
    draw = bars(
        rows, "Held-out accuracy in context", "", line=(0.5, "chance"), strong=["reward model"], low=0.0, high=1.12
    )
    return chart(f"{run['run']}-context", alt, draw)


def _by_margin(run: Mapping[str, Any], report: PairReport) -> Markup | None:
    rows: list[tuple[str, float, tuple[float, float] | None]] = []
    for b in report.by_margin:
        if b.accuracy is not None:
            edge = f"over {b.low:g}" if b.high is None else f"{b.low:g} to {b.high:g}"
            rows.append((f"{edge}  ({b.pairs} pairs)", b.accuracy, None))
    if not rows:
        return None
    alt = "Accuracy by how far apart people ranked a pair: " + "; ".join(f"{n}: {100 * v:.0f} %" for n, v, _ in rows)
    draw = bars(rows, "Clear pairs should be easier", "accuracy, by ranks apart", line=(0.5, ""), high=1.12)
    return chart(f"{run['run']}-margin", alt, draw)


def _calibration(run: Mapping[str, Any], report: PairReport) -> Markup | None:
    bins = [
        (b.predicted, b.observed, b.votes)
        for b in report.calibration
        if b.predicted is not None and b.observed is not None
    ]
    if not bins:
        return None
    most = max(votes for _, _, votes in bins)

    def draw(axes: Any) -> None:
        axes.plot((0.5, 1), (0.5, 1), color=MUTED, linewidth=1, linestyle=(0, (4, 2)), label="exactly right")
        x, y = [predicted for predicted, _, _ in bins], [observed for _, observed, _ in bins]
        axes.plot(x, y, color=SERIES[0], linewidth=1)
        sizes = [12 + 90 * votes / most for _, _, votes in bins]
        axes.scatter(x, y, s=sizes, color=SERIES[0], label="area: votes", zorder=3)
        axes.set_ylim(min(0.45, min(y) - 0.05), 1.04)
        as_share(axes)
        as_share(axes, vertical=False)
        axes.legend(loc="upper left")
        ece = f" (ECE {report.ece:.2f})" if report.ece is not None else ""
        label(axes, f"Is it as sure as it is right?{ece}", "predicted chance of the higher score", "how often it won")

    alt = "Calibration: " + "; ".join(
        f"predicted {100 * predicted:.0f} %, won {100 * observed:.0f} % of {votes} votes"
        for predicted, observed, votes in bins
    )
    return chart(f"{run['run']}-calibration", alt, draw)


NAMES = {
    "demonstrations": "demonstrations, mean",
    "demonstration": "demonstrations",
    "demonstrations_best": "best demonstration",
    "sft": "imitation (SFT)",
    "best_of_n": "best of n by reward",
    "dpo": "DPO",
    "rlhf": "preferences (RLHF)",
    "base": "start",
}


def system_name(key: str) -> str:
    return NAMES.get(key, key.replace("_", " "))


def demo_figures(demo: Mapping[str, Any]) -> list[Markup]:
    """Return the charts of true quality: by system, by its parts, and its spread over prompts."""
    quality = {k: v for k, v in demo.get("quality", {}).items() if isinstance(v, (int, float))}
    top = quality.pop("demonstrations_p95", None)
    made = []
    if quality:
        intervals = demo.get("quality_interval", {})
        order = [k for k in NAMES if k in quality] + sorted(k for k in quality if k not in NAMES)
        rows = [(system_name(k), float(quality[k]), _pair(intervals.get(k))) for k in order]
        alt = "True quality: " + "; ".join(f"{name} {value:.2f}" for name, value, _ in rows)
        line = (float(top), "95 % of demonstrations are below") if isinstance(top, (int, float)) else None
        if line:
            alt += f"; 95 % of demonstrations are below {line[0]:.2f}"
        draw = bars(
            rows, "True quality of the answers", "mean over held-out prompts, 0 to 1; with 95 % interval",
            line=line, share=False, strong=[system_name("rlhf")],
        )  # fmt: skip
        made.append(chart("demo-quality", alt, draw, 6.6, 1.0 + 0.34 * len(rows)))
    made += [_histogram(demo["per_prompt"])] if demo.get("per_prompt") else []
    made += [_parts(demo["quality_parts"])] if demo.get("quality_parts") else []
    return made


def _pair(interval: Mapping[str, Any] | None) -> tuple[float, float] | None:
    if not interval or interval.get("low") is None or interval.get("high") is None:
        return None
    return float(interval["low"]), float(interval["high"])


def _histogram(scores: Mapping[str, Sequence[float]]) -> Markup:
    scores = {k: [float(v) for v in row if v is not None] for k, row in scores.items()}
    shown = [k for k in ("demonstration", "sft", "rlhf") if scores.get(k)] or sorted(k for k in scores if scores[k])[:3]
    edges = [n / 20 for n in range(21)]

    def draw(axes: Any) -> None:
        for colour, key in zip((SERIES[3], SERIES[1], SERIES[0]), shown, strict=False):
            values = [min(1.0, max(0.0, v)) for v in scores[key]]
            weight = [1 / len(values)] * len(values)
            axes.hist(
                values, edges, weights=weight, histtype="step", linewidth=1.8, color=colour, label=system_name(key)
            )
        as_share(axes)
        axes.legend(loc="upper left")
        label(axes, "Spread over prompts", "true quality of one answer", "share of prompts")

    alt = "Histogram of true quality by prompt. " + "; ".join(
        f"{system_name(k)}: mean {sum(scores[k]) / len(scores[k]):.2f} of {len(scores[k])}" for k in shown
    )
    return chart("demo-spread", alt, draw, 4.8, 3.4)


def _parts(parts: Mapping[str, Mapping[str, float]]) -> Markup:
    shown = [k for k in ("demonstration", "sft", "best_of_n", "dpo", "rlhf") if k in parts] or sorted(parts)
    names = list(next(iter(parts.values())))

    def draw(axes: Any) -> None:
        height = 0.8 / len(shown)
        for n, key in enumerate(shown):
            places = [i + (n - (len(shown) - 1) / 2) * height for i in range(len(names))]
            colour = SERIES[0] if key == "rlhf" else (SERIES[3], SERIES[1], SERIES[2], SERIES[4])[n % 4]
            axes.barh(
                places, [parts[key].get(name, 0.0) for name in names], height, color=colour, label=system_name(key)
            )
        axes.set_yticks(range(len(names)), names, color=INK)
        axes.tick_params(axis="y", length=0)
        axes.invert_yaxis()
        axes.grid(False, axis="y")
        axes.set_axisbelow(True)
        axes.set_xlim(0, 1)
        axes.legend(loc="upper center", bbox_to_anchor=(0.4, -0.1), ncols=2)
        label(axes, "What the quality is made of", "", "")

    alt = "Mean of each part of the true quality. " + "; ".join(
        f"{system_name(k)}: " + ", ".join(f"{n} {parts[k].get(n, 0.0):.2f}" for n in names) for k in shown
    )
    return chart("demo-parts", alt, draw, 4.8, 3.4)
