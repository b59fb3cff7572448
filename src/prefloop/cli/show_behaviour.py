"""The checks of behaviour for people: what is broken or got worse row by row, what held in a line."""

from __future__ import annotations

from collections.abc import Sequence

from prefloop.results import BehaviourReport, Breach, CheckResult, Compared, Interval
from prefloop.results.behaviour import Verdict

CLEAR: tuple[Verdict, ...] = ("regressed", "changed", "improved")
QUIET: dict[Verdict, str] = {"held": "held", "unclear": "can't tell"}


def behaviour_lines(r: BehaviourReport, against: str = "the reference") -> list[str]:
    """What regressed, changed, improved, held, and could not be told."""
    named = ", ".join(f"{name} ({prompts} prompts)" for name, prompts in r.prompts.items())
    lines = [f"behaviour against {against} on {named}; {len(r.checks)} questions, corrected for"]
    for verdict in CLEAR:
        lines += [f"  {verdict:10} {_row(row)}" for row in r.said(verdict)]
    # A bound is said in a row of its own, whatever came of it.
    for quiet, title in QUIET.items():
        found = r.said(quiet)
        lines += [f"  {title:10} {_row(row)}" for row in found if row.max_drop is not None]
        if others := [row for row in found if row.max_drop is None]:
            lines.append(f"  {title:10} {', '.join(map(_name, others))}")
    lines += [f"  NOT CHECKED, so not held: {why}" for why in r.unchecked]
    return [*lines, *(f"  problem: {problem}" for problem in r.problems)]


def breach_lines(breaches: Sequence[Breach]) -> list[str]:
    """The steps of `align` that broke a bound, or at which one could not be checked, where there are any."""
    if not breaches:
        return []
    at = ", ".join(str(breach.step) for breach in breaches)
    return [f"BOUND BROKEN at step {at}, which is not kept: {'; '.join(breaches[-1].bounds)}"]


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


SAMPLES = 3  # so many are shown; --json has all of [evaluate] show
LONGEST = 160  # characters of a text


def compared_lines(r: Compared) -> list[str]:
    """Head to head by each scorer, then behaviour, then samples."""
    lines = [f"{r.a} ({r.answers_a} answers each) against {r.b} ({r.answers_b}) on {r.prompts} prompts"]
    for row in r.scores:
        name = row.scorer if row.slice == "all" else f"{row.scorer} [{row.slice}]"
        gain = f"{row.gain.mean:+.3f} [{row.gain.low:+.3f}, {row.gain.high:+.3f}]"
        lines.append(f"{name}: win rate {_share(row.win_rate)}, gain {gain} ({row.b:.3f} -> {row.a:.3f})")
    lines += behaviour_lines(r.behaviour, r.b)
    for sample in r.samples[:SAMPLES]:
        lines.append(f"prompt: {_line(sample.prompt)}")
        for side, text, scores in ((r.a, sample.a, sample.scores_a), (r.b, sample.b, sample.scores_b)):
            said = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
            lines.append(f"  {side}: {_line(text)}{f' ({said})' if said else ''}")
    return lines


def _share(found: Interval) -> str:
    return f"{found.mean:.1%} [{found.low:.1%}, {found.high:.1%}]"


def _line(text: str) -> str:
    plain = " ".join(text.split())
    return plain if len(plain) <= LONGEST else f"{plain[: LONGEST - 1]}…"
