"""The picture of a front: what a policy gains by one criterion for what it gives up by another."""

from __future__ import annotations

from typing import Any

from prefloop.report.charts import INK, MUTED, SERIES, chart, document, label
from prefloop.results import FrontPoint, Traded


def picture(found: Traded) -> str:
    """Return an SVG file that follows the light or dark colours of whoever shows it."""
    shown = [p for p in found.points if p.first and p.second]
    sign = ">= " if found.kind == "bounds" else "weight "

    def draw(axes: Any) -> None:
        front = sorted((p for p in shown if p.front), key=lambda p: p.second.mean if p.second else 0.0)
        xy = [(p.second.mean, p.first.mean) for p in front if p.first and p.second]
        axes.plot(*zip(*xy, strict=True) if xy else ((), ()), color=SERIES[0], linewidth=1, zorder=1)
        for place, p in enumerate(shown):
            _point(axes, p, f"{sign}{p.value:g}", found.chosen == p.run, place)
        if found.reference:
            y, x = (found.reference[name] for name in (found.first, found.second))
            _bars(axes, x, y, MUTED)
            axes.plot(x.mean, y.mean, marker="s", color=MUTED, linestyle="none", label="reference", zorder=3)
        for name, bound in found.stated.items():
            line = axes.axvline if name == found.second else axes.axhline
            line(bound, color=INK, linewidth=1.2, linestyle=(0, (4, 2)), label=f"bound: {name} >= {bound:g}")
        axes.margins(0.12)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="best")
        label(axes, f"{found.first} against {found.second}", f"{found.second}, mean", f"{found.first}, mean")

    alt = f"{found.first} and {found.second} on held-out prompts, with 95 % intervals: " + "; ".join(
        f"{sign}{p.value:g}: {p.first.mean:.3g} and {p.second.mean:.3g}" for p in shown if p.first and p.second
    )
    return document(chart("frontier", alt, draw, 6.6, 4.6))


def _point(axes: Any, p: FrontPoint, text: str, chosen: bool, place: int) -> None:
    assert p.first and p.second
    colour = SERIES[0] if p.front else SERIES[3]
    _bars(axes, p.second, p.first, colour)
    marker: dict[str, Any] = {"marker": "*", "markersize": 13} if chosen else {"marker": "o"}
    said = {"label": "best that keeps the bounds"} if chosen else {}
    shown = {"color": SERIES[1] if chosen else colour, **marker, **said}
    axes.plot(p.second.mean, p.first.mean, linestyle="none", zorder=4, **shown)
    axes.annotate(
        text, (p.second.mean, p.first.mean), xytext=(6, 6 if place % 2 else -12), textcoords="offset points", fontsize=8
    )


def _bars(axes: Any, x: Any, y: Any, colour: str) -> None:
    axes.plot((x.low, x.high), (y.mean, y.mean), color=colour, linewidth=1, alpha=0.7, zorder=2)
    axes.plot((x.mean, x.mean), (y.low, y.high), color=colour, linewidth=1, alpha=0.7, zorder=2)
