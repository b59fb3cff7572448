"""Text and numbers for people. Model output is hostile: what could hide or reorder text is made visible."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from prefloop.invisible import BLANK

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


def span(interval: dict[str, float | None] | None, style: str = "percent") -> str:
    """ "49 to 71 %" of {low, high}; "" where there is no interval."""
    if not interval or interval.get("low") is None or interval.get("high") is None:
        return ""
    low, high = interval["low"], interval["high"]
    if style == "percent":
        return f"{percent(low)[:-2]} to {percent(high)}"
    return f"{signed(low)} to {signed(high)}"


def beyond(interval: Mapping[str, Any], middle: float) -> int | None:
    """1 where {low, high, n} lies above a middle, -1 below, 0 where it includes it; None where prompts are too few."""
    low, high = interval.get("low"), interval.get("high")
    if low is None or high is None or interval.get("n", FEWEST) < FEWEST:
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
