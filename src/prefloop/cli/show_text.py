"""How figures with an interval are written for people."""

from __future__ import annotations

from prefloop.results import Interval


def mean(m: Interval, form: str) -> str:
    """A mean with its interval, each in a format as ".1%"."""
    return between(m.mean, m.low, m.high, form)


def between(mean: float, low: float, high: float, form: str) -> str:
    return f"{mean:{form}} [{low:{form}}, {high:{form}}]"
