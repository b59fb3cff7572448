"""Checks of a metric's finite values, in order of step: one sentence on what is unusual, or None."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prefloop.report.text import compact

Check = Callable[[Sequence[float]], str | None]


def late(values: Sequence[float]) -> float:
    """Return the mean of the last quarter, which says where the run ended without the noise of one step."""
    tail = values[-max(1, len(values) // 4) :]
    return sum(tail) / len(tail)


def above(limit: float, what: str) -> Check:
    return lambda values: (
        f"{what}: {compact(late(values))} at the end, over {limit:g}" if late(values) > limit else None
    )


def below(limit: float, what: str) -> Check:
    return lambda values: (
        f"{what}: {compact(late(values))} at the end, under {limit:g}" if late(values) < limit else None
    )


def not_positive(values: Sequence[float]) -> str | None:
    if late(values) <= 0:
        return f"the critic predicts no better than a constant: {compact(late(values))} at the end"
    return None


def peak(limit: float, what: str) -> Check:
    return lambda values: f"{what}: up to {compact(max(values))}, over {limit:g}" if max(values) > limit else None


def off_one(limit: float) -> Check:
    def check(values: Sequence[float]) -> str | None:
        worst = max(values, key=lambda v: abs(v - 1))
        if abs(worst - 1) <= limit:
            return None
        return f"{worst:.6g} instead of 1: policy and learner disagree (dropout, padding, temperature or template)"

    return check


def ratio_off(values: Sequence[float]) -> str | None:
    worst = max(values, key=lambda v: abs(v - 1))
    return f"as far off as {compact(worst)}" if not 0.5 <= worst <= 2 else None


def moved(share: float, what: str) -> Check:
    def check(values: Sequence[float]) -> str | None:
        first, last = values[0], late(values)
        if first == 0 or abs(last / first - 1) <= share:
            return None
        return f"{what}: {compact(first)} at first, {compact(last)} at the end"

    return check


def fallen(share: float, what: str) -> Check:
    def check(values: Sequence[float]) -> str | None:
        if late(values) >= share * values[0]:
            return None
        return f"{what}: {compact(values[0])} at first, {compact(late(values))} at the end"

    return check


def spike(values: Sequence[float]) -> str | None:
    middle = sorted(values)[len(values) // 2]
    return (
        f"a spike of {compact(max(values))}, the median is {compact(middle)}" if max(values) > 20 * middle > 0 else None
    )
