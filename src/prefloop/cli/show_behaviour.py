"""The checks of behaviour for people: what is broken or got worse row by row, what held in a line."""

from __future__ import annotations

from prefloop.results import BehaviourReport, CheckResult
from prefloop.results.behaviour import Verdict

CLEAR: tuple[Verdict, ...] = ("regressed", "changed", "improved")
QUIET: dict[Verdict, str] = {"held": "held", "unclear": "can't tell"}


def behaviour_lines(r: BehaviourReport) -> list[str]:
    """What regressed, changed, improved, held, and could not be told."""
    named = ", ".join(f"{name} ({prompts} prompts)" for name, prompts in r.prompts.items())
    lines = [f"behaviour against the reference on {named}; {len(r.checks)} questions, corrected for"]
    for verdict in CLEAR:
        lines += [f"  {verdict:10} {_row(row)}" for row in r.said(verdict)]
    # A bound is said in a row of its own, whatever came of it.
    for quiet, title in QUIET.items():
        found = r.said(quiet)
        lines += [f"  {title:10} {_row(row)}" for row in found if row.max_drop is not None]
        if others := [row for row in found if row.max_drop is None]:
            lines.append(f"  {title:10} {', '.join(map(_name, others))}")
    return [*lines, *(f"  problem: {problem}" for problem in r.problems)]


def _name(row: CheckResult) -> str:
    return row.check if row.slice == "all" else f"{row.check} [{row.slice}]"


def _row(row: CheckResult) -> str:
    share = row.unit == "share"

    def figure(value: float) -> str:
        return f"{value:.1%}" if share else f"{value:.3g}"

    def change(value: float) -> str:
        return f"{100 * value:+.1f}" if share else f"{value:+.1%}" if row.relative else f"{value:+.3g}"

    unit = " points" if share else "" if row.relative else f" {row.unit}"
    said = (
        f"{_name(row):24} {figure(row.reference)} -> {figure(row.policy)}{'' if share else ' ' + row.unit}, "
        f"{change(row.change.mean)}{unit} (95 % interval {change(row.change.low)} to {change(row.change.high)})"
    )
    if row.max_drop is None:
        return said
    points = f"{100 * row.max_drop:g}"
    bound = f"{points} points" if share else f"{points}%" if row.relative else f"{row.max_drop:.3g}"
    return f"{said}; {'BREAKS' if row.broken else 'within' if row.verdict == 'held' else 'bound'} max_drop {bound}"
