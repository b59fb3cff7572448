"""Draws curves as inline SVG without a style of its own: classes say what a part is, watch.css how it looks.

The pages' security policy forbids styles inside a page, and a page that is drawn anew every few seconds must not take
the processor from the run that it shows. So this is no drawing library, but straight lines through points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from prefloop.report.text import visible

WIDTH, HEIGHT = 360, 200
LEFT, RIGHT, TOP, BOTTOM = 48, 10, 14, 30
MOST = 400  # points of a line; of more, the lowest and the highest of each stretch are drawn
DOTTED = 40  # points up to which each has a dot that says its figures
COLOURS = 5
DASHES = 4
Bound = tuple[float | None, float | None]


@dataclass(frozen=True)
class Line:
    """A curve. x, y: its points in order of x. names: what its points are called where x does not say it."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    names: Sequence[str] = ()


@dataclass(frozen=True)
class Mark:
    """A place on the x axis with a short text above it, such as the number of a finding."""

    x: float
    text: str
    kind: str = "warning"


@dataclass(frozen=True)
class Axis:
    """ticks: (place, text); where there are none, they are round numbers."""

    label: str = "step"
    ticks: Sequence[tuple[float, str]] = ()


def plot(
    lines: Sequence[Line],
    alt: str,
    *,
    band: Bound | None = None,
    marks: Sequence[Mark] = (),
    share: bool = False,
    x_axis: Axis | None = None,
    diagonal: bool = False,
    reach: tuple[float, float] | None = None,
) -> Markup:
    """Return the picture. `alt` says to those who do not see it what there is to see.

    band: (low, high) of the range that is shaded; None for an open end.  share: whether y is a share, shown as percent.
    diagonal: whether the line y = x is drawn, as of a calibration.  reach: what the x axis shows at least.
    """
    axis = x_axis or Axis()
    scale = _Scale.of(lines, band, [mark.x for mark in marks] + list(reach or ()), diagonal)
    parts = [_band(scale, band), *_grid(scale, share, axis)]
    if diagonal:
        low, high = max(scale.x0, scale.y0), min(scale.x1, scale.y1)
        parts.append(f'<path class="ideal" d="{scale.path([low, high], [low, high])}"/>')
    parts += [part for number, line in enumerate(lines) for part in _line(scale, line, number, share, axis)]
    parts += [_mark(scale, mark) for mark in marks]
    body = "".join(parts)
    return Markup(
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" class="plot" role="img" aria-label="{escape(visible(alt))}">{body}</svg>'
    )


def look_of(number: int) -> str:
    """Return the classes of the n-th line: a colour, and a dash that tells it apart without colour."""
    return f"c{number % COLOURS + 1} d{number % DASHES + 1}"


def sample_of(number: int) -> Markup:
    """Return a short piece of the n-th line, for a legend."""
    return Markup(
        '<svg class="swatch" viewBox="0 0 26 8" aria-hidden="true">'
        f'<path class="line {look_of(number)}" d="M1 4H25"/></svg>'
    )


@dataclass(frozen=True)
class _Scale:
    x0: float
    x1: float
    y0: float
    y1: float

    @classmethod
    def of(cls, lines: Sequence[Line], band: Bound | None, more_x: Sequence[float], diagonal: bool) -> _Scale:
        xs = [x for line in lines for x in line.x] or [0.0]
        ys = [y for line in lines for y in line.y] or [0.0]
        xs += more_x
        low, high = min(ys), max(ys)
        reach = (high - low) or abs(high) or 1.0
        for edge in band or ():  # An edge far away would press the curve flat.
            if edge is not None and low - reach <= edge <= high + reach:
                low, high = min(low, edge), max(high, edge)
        room = 0.06 * (high - low) or 0.1 * abs(high) or 0.5
        x0, x1 = min(xs), max(xs)
        if diagonal:
            return cls(x0 - 0.01, x1 + 0.01, low - room, high + room)
        return cls(x0, x1 if x1 > x0 else x0 + 1, low - room, high + room)

    def x(self, value: float) -> float:
        return round(LEFT + (value - self.x0) / (self.x1 - self.x0) * (WIDTH - LEFT - RIGHT), 1)

    def y(self, value: float) -> float:
        share = min(1.0, max(0.0, (value - self.y0) / (self.y1 - self.y0)))
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)

    def path(self, x: Sequence[float], y: Sequence[float]) -> str:
        return "M" + "L".join(f"{self.x(a):g} {self.y(b):g}" for a, b in zip(x, y, strict=True))


def _band(scale: _Scale, band: Bound | None) -> str:
    if band is None:
        return ""
    low = scale.y0 if band[0] is None else band[0]
    high = scale.y1 if band[1] is None else band[1]
    top, bottom = scale.y(high), scale.y(low)
    if bottom - top < 1.5:  # A range of one value, such as "0", is still to be seen.
        top, bottom = top - 1, bottom + 1
    return f'<rect class="band" x="{LEFT}" y="{top:g}" width="{WIDTH - LEFT - RIGHT}" height="{bottom - top:g}"/>'


def _grid(scale: _Scale, share: bool, axis: Axis) -> list[str]:
    parts = []
    heights = ticks(scale.y0, scale.y1, 4)
    for value, text in zip(heights, figures(heights, share), strict=True):
        y = scale.y(value)
        parts.append(f'<path class="grid" d="M{LEFT} {y:g}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="y" x="{LEFT - 5}" y="{y + 3.5:g}">{escape(text)}</text>')
    whole = axis.label == "step"
    for value, text in axis.ticks or [(t, figure(t)) for t in ticks(scale.x0, scale.x1, 5, whole)]:
        if scale.x0 <= value <= scale.x1:
            parts.append(f'<text class="x" x="{scale.x(value):g}" y="{HEIGHT - BOTTOM + 13}">{escape(text)}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="x name" x="{middle:g}" y="{HEIGHT - 4}">{escape(axis.label)}</text>')
    return parts


def _line(scale: _Scale, line: Line, number: int, share: bool, axis: Axis) -> list[str]:
    if not len(line.x):
        return []
    x, y = thinned(line.x, line.y)
    parts = [f'<path class="line {look_of(number)}" d="{scale.path(x, y)}"/>']
    if len(line.x) <= DOTTED:
        names = line.names or [f"{axis.label} {figure(a)}" for a in line.x]
        for a, b, name in zip(line.x, line.y, names, strict=True):
            said = escape(visible(f"{line.name}, {name}: {figure(b, share)}"))
            at = f'cx="{scale.x(a):g}" cy="{scale.y(b):g}"'
            parts.append(f'<circle class="{look_of(number)}" {at} r="2.6"><title>{said}</title></circle>')
    return parts


def _mark(scale: _Scale, mark: Mark) -> str:
    x = scale.x(mark.x)
    where = min(max(x, LEFT + 4), WIDTH - RIGHT - 4)
    return (
        f'<g class="mark {escape(mark.kind)}"><path d="M{x:g} {TOP}V{HEIGHT - BOTTOM}"/>'
        f'<text x="{where:g}" y="{TOP - 3}">{escape(mark.text)}</text></g>'
    )


def thinned(x: Sequence[float], y: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return at most `MOST` points: of each stretch the lowest and the highest, so that no spike is lost."""
    if len(x) <= MOST:
        return list(x), list(y)
    places: list[int] = []
    size = math.ceil(len(x) / (MOST // 2))
    for start in range(0, len(x), size):
        stretch = range(start, min(start + size, len(x)))
        places += sorted({min(stretch, key=lambda i: y[i]), max(stretch, key=lambda i: y[i])})
    return [x[i] for i in places], [y[i] for i in places]


def ticks(low: float, high: float, count: int, whole: bool = False) -> list[float]:
    """Return about `count` round numbers between two others: multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / count
    if not math.isfinite(rough) or rough <= 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(m for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    if whole:
        step = max(1.0, step)
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


def figures(values: Sequence[float], share: bool = False) -> list[str]:
    """Return round numbers at equal distances as texts that differ."""
    step = (values[1] - values[0]) * (100 if share else 1) if len(values) > 1 else 0.0
    digits = max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else 0
    if step <= 0 or digits > 5 or step >= 1e5:
        return [figure(value, share) for value in values]
    texts = (f"{100 * value:.{digits}f} %" if share else f"{value:.{digits}f}" for value in values)
    return [text.replace("-", "−") for text in texts]


def figure(value: float, share: bool = False) -> str:
    """Return a number with at most four digits that count; a share as percent."""
    text = f"{100 * value:.3g} %" if share else f"{value:.4g}"
    return text.replace("-", "−").replace("e−0", "e−").replace("e+0", "e")
