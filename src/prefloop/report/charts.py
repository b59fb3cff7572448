"""Charts as inline SVG that follows the page's light and dark colours. The same figures give the same bytes.

Drawn by matplotlib with placeholder colours, which become CSS variables; text stays text. No pyplot, no global state.
"""

from __future__ import annotations

import io
import itertools
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

from markupsafe import Markup, escape

from prefloop.report.text import visible

INK, MUTED, GRID, CARD = "#010101", "#020202", "#030303", "#040404"
SERIES = ("#0a0001", "#0a0002", "#0a0003", "#0a0004", "#0a0005")
_VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", CARD: "card", **{c: f"c{n}" for n, c in enumerate(SERIES, 1)}}
_STYLE = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.8,
    "lines.markersize": 4,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "text.parse_math": False,  # A criterion may be called "$x^2$".
    "text.color": INK,
    "axes.titlecolor": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "grid.color": GRID,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.formatter.useoffset": False,
}
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))  # Dashes tell lines apart without colour too.
Draw = Callable[[Any], None]


def chart(name: str, alt: str, draw: Draw, width: float = 4.3, height: float = 2.7) -> Markup:
    """Return one picture in inches of 72 points. `name` is unique on the page; `alt` says what is to be seen."""
    with _style(name):
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure.subplots())
        out = io.StringIO()
        # savefig is not used, because it draws everything once more.
        FigureCanvasSVG(figure).print_svg(out, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return Markup(_inline(out.getvalue(), visible(alt)))


@contextmanager
def _style(name: str) -> Iterator[None]:
    import matplotlib

    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": name}), warnings.catch_warnings():
        # The font is only for measuring text: the browser has the fonts that DejaVu lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support .* natively")
        yield


def document(picture: Markup) -> str:
    """Return a chart as a file of its own, with the colours of the page, light and dark."""
    css = (files("prefloop.report") / "page.css").read_text(encoding="utf-8")
    colours = css[css.index(":root") : css.index("* {")]
    style = f"<style>{colours}svg {{ background: var(--card); }}</style>"
    head = '<svg xmlns="http://www.w3.org/2000/svg" '
    return head + str(picture).removeprefix("<svg ").replace(">", f">{style}", 1) + "\n"


def _inline(svg: str, alt: str) -> str:
    """Return an SVG document as an element of a page: no ids that repeat, no namespaces, colours as variables."""
    body = svg[svg.index("<svg") :].strip()
    view = re.search(r'viewBox="[^"]*"', body)
    assert view
    body = re.sub(r"^<svg[^>]*>", "", body)
    body = re.sub(r"\s*<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'(<g) id="[^"]*"', r"\1", body).replace("xlink:href", "href")
    body = re.sub(r"<!--.*?-->\s*", "", body, flags=re.DOTALL)
    body = re.sub(r"#0[0-9a]0[0-9]0[0-9]", lambda m: f"var(--{_VARIABLES[m[0]]})" if m[0] in _VARIABLES else m[0], body)
    body = re.sub(r"\s*\n\s*", "\n", body)
    return f'<svg {view[0]} role="img" aria-label="{escape(alt)}">{body}'


def lines(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    title: str,
    ylabel: str = "",
    *,
    xlabel: str = "step",
    at: float | None = None,
    limit: tuple[float, str] | None = None,
    share: bool = False,
) -> Draw:
    """Curves by name. `at`: a marked step. `limit`: a horizontal line with its label, if it is near the data."""

    def draw(axes: Any) -> None:
        style = zip(itertools.cycle(SERIES), itertools.cycle(DASHES), series.items())
        for colour, dash, (name, (x, y)) in style:
            few = "o" if len(x) <= 15 else None
            axes.plot(x, y, color=colour, linestyle=dash, marker=few, label=visible(name), clip_on=False)
        if at is not None:
            axes.axvline(at, color=MUTED, linewidth=1, linestyle=(0, (2, 2)))
        top = max((v for _, y in series.values() for v in y), default=0.0)
        if limit and limit[0] <= 2 * top:
            axes.axhline(limit[0], color=SERIES[1], linewidth=1)
            axes.annotate(
                limit[1],
                (1, limit[0]),
                xycoords=("axes fraction", "data"),
                ha="right",
                va="bottom",
                color=SERIES[1],
                fontsize=8,
            )
        if share:
            as_share(axes)
        if len(series) > 1:
            axes.legend(loc="best")
        label(axes, title, xlabel, ylabel)

    return draw


def label(axes: Any, title: str, xlabel: str, ylabel: str) -> None:
    axes.set_title(visible(title))
    axes.set_xlabel(visible(xlabel))
    axes.set_ylabel(visible(ylabel))


def as_share(axes: Any, vertical: bool = True) -> None:
    """0 to 1 as percent."""
    (axes.yaxis if vertical else axes.xaxis).set_major_formatter(lambda value, _: f"{100 * value:.3g} %")


def bars(
    rows: Sequence[tuple[str, float, tuple[float, float] | None]],
    title: str,
    xlabel: str,
    *,
    line: tuple[float, str] | None = None,
    share: bool = True,
    strong: Sequence[str] = (),
    low: float = 0.0,
    high: float | None = None,
) -> Draw:
    """Horizontal bars of (name, value, interval), first on top, each with its figure; `strong` ones in colour 1."""

    def draw(axes: Any) -> None:
        for place, (name, value, interval) in enumerate(rows):
            colour = SERIES[0] if name in strong or not strong else SERIES[3]
            axes.barh(place, value - low, left=low, height=0.62, color=colour)
            if interval:
                axes.plot(interval, (place, place), color=INK, linewidth=1.4, solid_capstyle="butt", marker="|")
            end = max(value, interval[1] if interval else value)
            text = f"{100 * value:.0f} %" if share else f"{value:.2f}"
            # fmt: skip
            axes.annotate(
                text,
                (end, place),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                zorder=4,
                bbox={"facecolor": CARD, "edgecolor": "none", "pad": 1.0},
            )
        axes.set_yticks(range(len(rows)), [visible(name) for name, _, _ in rows], color=INK)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(rows) - (0.0 if line and line[1] else 0.4), -0.6)  # The label needs room.
        axes.grid(False, axis="y")
        axes.set_axisbelow(True)
        ends = [max(value, interval[1] if interval else value) for _, value, interval in rows]
        axes.set_xlim(low, high if high is not None else low + (max(ends, default=1.0) - low) * 1.18)
        if line:
            axes.axvline(line[0], color=INK, linewidth=1.2, linestyle=(0, (4, 2)))
            left, right = axes.get_xlim()
            aside = 1 if line[0] < (left + right) / 2 else -1
            # fmt: skip
            axes.annotate(
                line[1],
                (line[0], 0),
                xycoords=("data", "axes fraction"),
                xytext=(4 * aside, 4),
                fontsize=8,
                textcoords="offset points",
                ha="left" if aside > 0 else "right",
            )
        if share:
            as_share(axes, vertical=False)
        label(axes, title, xlabel, "")

    return draw
