"""The picture of best-of-n: what is gained for each nat of distance from the policy."""

from __future__ import annotations

from typing import Any

from prefloop.report.charts import MUTED, SERIES, chart, document, label
from prefloop.results import BestAt, BestOf


def picture(found: BestOf) -> str:
    """Return an SVG file that follows the light or dark colours of whoever shows it."""
    bound = any(at.kl_estimate is not None for at in found.curve)

    def draw(axes: Any) -> None:
        x = [_kl(at) for at in found.curve]
        _line(axes, x, [at.reward for at in found.curve], SERIES[0])
        for at in found.curve:
            axes.annotate(
                f"n = {at.n}",
                (_kl(at), at.reward.mean),
                xytext=(-6, 6),
                textcoords="offset points",
                ha="right",
                fontsize=8,
            )
        if judged := [at.judge for at in found.curve if at.judge]:
            beside = axes.twinx()
            beside.grid(False)
            beside.spines["right"].set_visible(True)
            _line(beside, x, judged, SERIES[1], "--")
            beside.set_ylabel("judge, which does not choose", color=SERIES[1])
            axes.plot([], [], color=SERIES[0], label="reward, which chooses")
            axes.plot([], [], color=SERIES[1], linestyle="--", label="judge")
            axes.legend(loc="lower right")
        axes.margins(x=0.1, y=0.15)
        about = " (estimate, since rewards tie)" if bound else ""
        label(axes, f"best of n by {found.scorer}", f"KL from {found.policy}, nats{about}", "reward")

    alt = f"mean reward of the best of n with 95 % intervals over {found.prompts} prompts: " + "; ".join(
        f"n = {at.n}: {at.reward.mean:.3g}" for at in found.curve
    )
    return document(chart("best-of", alt, draw, 6.0, 3.8))


def _kl(at: BestAt) -> float:
    return at.kl if at.kl_estimate is None else at.kl_estimate


def _line(axes: Any, x: list[float], means: list[Any], colour: str, style: str = "-") -> None:
    axes.plot(x, [m.mean for m in means], color=colour, linestyle=style, marker="o", zorder=3)
    axes.fill_between(x, [m.low for m in means], [m.high for m in means], color=colour, alpha=0.15, linewidth=0)
    axes.tick_params(axis="y", colors=MUTED)
