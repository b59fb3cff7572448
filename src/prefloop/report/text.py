"""Text and numbers for people. Model output is hostile: what could hide or reorder text is made visible."""

from __future__ import annotations

import math
import re
import unicodedata
from typing import Protocol

from prefloop.invisible import BLANK
from prefloop.results import Interval

LONGEST = 4000  # So many characters of one text are shown.
FEWEST = 10  # An interval needs so many prompts before a difference is claimed.
_BLANK = re.compile(f"[{BLANK}]")
_HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def visible(text: str, longest: int = LONGEST) -> str:
    """Control, format (bidi, zero-width), private and unassigned characters as ⟨U+202E⟩; lone surrogates too.

    The result can always be written as UTF-8. Newlines and tabs stay. It is still to be escaped for HTML.
    """
    shown = "".join(_show(c) for c in text[:longest])
    return f"{shown} … ({len(text) - longest} more characters)" if len(text) > longest else shown


def _show(c: str) -> str:
    if c in "\n\t" or (c.isascii() and c.isprintable()):
        return c
    if _BLANK.match(c) or unicodedata.category(c) in _HIDDEN:
        return f"⟨U+{ord(c):04X}⟩"
    return c


def number(value: float | None, digits: int = 2) -> str:
    """Return a figure with fixed decimals; – where there is none. Very small and very large ones get an exponent."""
    if value is None or not math.isfinite(value):
        return "–"
    if value and (abs(value) < 0.5 * 10**-digits or abs(value) >= 1e6):
        return f"{value:.1e}".replace("-", "−")
    return f"{value:,.{digits}f}".replace("-", "−")


def compact(value: float) -> str:
    """Four significant digits: 64, 0.0623, 1.5e-05."""
    return f"{value:.4g}".replace("-", "−")


def signed(value: float | None, digits: int = 2) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:+,.{digits}f}".replace("-", "−")


def whole(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def percent(value: float | None, digits: int = 0) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    return f"{100 * value:.{digits}f} %".replace("-", "−")


class Bounds(Protocol):
    """What has an interval. Both ends are None where there is none."""

    @property
    def low(self) -> float | None: ...
    @property
    def high(self) -> float | None: ...


def span(interval: Bounds | None, style: str = "percent") -> str:
    """ "49 to 71 %"; "" where there is no interval."""
    if interval is None or interval.low is None or interval.high is None:
        return ""
    if style == "percent":
        return f"{percent(interval.low)[:-2]} to {percent(interval.high)}"
    return f"{signed(interval.low)} to {signed(interval.high)}"


def beyond(interval: Interval, middle: float) -> int | None:
    """1 where an interval lies above a middle, -1 below, 0 where it includes it; None where prompts are too few."""
    low, high = interval.low, interval.high
    if low is None or high is None or (interval.n is not None and interval.n < FEWEST):
        return None
    return 1 if low > middle else -1 if high < middle else 0


def seconds(value: float | None) -> str:
    """Return a duration: 0.4 s, 12 s, 3 min 20 s, 2 h 5 min."""
    if value is None:
        return "–"
    if value < 10:
        return f"{value:.1f} s"
    if value < 60:
        return f"{value:.0f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def without_password(text: str) -> str:
    """Return a URL such as [project] store without its user and password."""
    return re.sub(r"(\w+://)[^/@\s]*@", r"\1…@", text)
