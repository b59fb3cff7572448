"""The report's table of behaviour: what regressed, changed, improved, held, and could not be told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefloop.report.text import number, percent, signed
from prefloop.results import BehaviourReport, CheckResult, Evaluated
from prefloop.results.behaviour import Verdict

HEAD = ("Check", "Reference", "Policy", "Change", "95 % interval", "p, corrected", "Bound", "Verdict")
WORDS: dict[Verdict, str] = {
    "regressed": "▼ Regressed",
    "changed": "◆ Changed",
    "improved": "▲ Improved",
    "held": "= Held",
    "unclear": "? Can't tell",
}


def behaviour(run: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The section of a run of evaluate; None where it has none."""
    found = Evaluated.read(run["result"]) if run else None
    made = found.behaviour if found else None
    if made is None or not (made.checks or made.problems or made.unchecked):
        return None
    problems = [*(f"Not checked, so not held: {why}" for why in made.unchecked), *made.problems]
    return {"said": _said(made), "head": HEAD, "rows": _rows(made), "problems": problems}


def _said(made: BehaviourReport) -> str:
    counts = [f"{len(rows)} {verdict}" for verdict in WORDS if (rows := made.said(verdict))]
    said = ", ".join(counts).replace("unclear", "could not be told")
    if made.broken:
        names = ", ".join(f"{row.check} ({row.slice})" for row in made.broken)
        return f"BROKEN bounds: {names}. Of {len(made.checks)} questions: {said}."
    bounded = any(row.max_drop is not None for row in made.checks)
    if made.unchecked:
        unknown = f"{len(made.unchecked)} bounds could NOT BE CHECKED, so they are not held"
        return f"{unknown}. Of {len(made.checks)} questions: {said}."
    return f"Of {len(made.checks)} questions: {said}." + (" No bound is broken." if bounded else "")


def _rows(made: BehaviourReport) -> list[list[str]]:
    rows = sorted(made.checks, key=lambda row: (not row.broken, list(WORDS).index(row.verdict)))
    return [_row(row, made.prompts) for row in rows]


def _row(row: CheckResult, prompts: Mapping[str, int]) -> list[str]:
    share = row.unit == "share"

    def change(value: float) -> str:
        return signed(100 * value, 1) + ("" if share else " %") if share or row.relative else signed(value)

    def figure(value: float) -> str:
        return percent(value, 1) if share else number(value)

    bound = "–" if row.max_drop is None else percent(row.max_drop) if share or row.relative else number(row.max_drop)
    name = row.check if row.slice == "all" else f"{row.check}, {row.slice} ({prompts.get(row.slice, 0)} prompts)"
    return [
        name if share else f"{name} ({row.unit})",
        figure(row.reference),
        figure(row.policy),
        change(row.change.mean),
        f"{change(row.change.low)} to {change(row.change.high)}",
        f"{row.p:.2g}",
        bound,
        "✗ Broken" if row.broken else WORDS[row.verdict],
    ]
