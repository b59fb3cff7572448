"""Makes the page of a case: what was lost and what came back, the finding, the curves, and answers side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from markupsafe import Markup

from prefloop.cases.case import Case
from prefloop.cases.measuring import Measured
from prefloop.diagnose.finding import Finding
from prefloop.diagnose.reading import read_run
from prefloop.report.charts import bars, chart, lines
from prefloop.report.metrics import explain
from prefloop.report.page import environment
from prefloop.report.text import number, percent
from prefloop.results import CaseFigures, Interval

NAMES = {"healthy": "before the fault", "fault": "with the fault", "after": "after the remedy"}
SHOWN = 4  # prompts whose answers are shown
LAST = 3  # answers of the run with the fault at its last evaluation


def render(case: Case, root: Path, result: CaseFigures, finding: Finding, measured: Mapping[str, Measured]) -> str:
    """Return the page as text."""
    template = (files("prefloop.cases") / "page.html").read_text(encoding="utf-8")
    return (
        environment()
        .from_string(template)
        .render(
            case=case,
            result=result,
            finding=finding.to_json(),
            tiles=_tiles(result),
            figures=_figures(case, root, result),
            samples=_samples(measured),
            last=_last(root / "runs" / result.runs["fault"]),
        )
    )


def _tiles(result: CaseFigures) -> list[tuple[str, str, str]]:
    """Return (label, figure, note) for each of the three, and for what came back."""
    shown = [(NAMES[which], number(of.mean, 3), _interval(of)) for which, of in _three(result).items()]
    back = result.restored
    if back is None:
        return [*shown, ("brought back", "–", "the fault has cost nothing")]
    return [*shown, ("brought back", percent(back.mean), f"{percent(back.low)} to {percent(back.high)}")]


def _interval(of: Interval) -> str:
    return f"95 %: {number(of.low, 3)} to {number(of.high, 3)}, {of.n} prompts"


def _three(result: CaseFigures) -> dict[str, Interval]:
    return {"healthy": result.healthy, "fault": result.fault, "after": result.after}


def _figures(case: Case, root: Path, result: CaseFigures) -> list[Markup]:
    """Return what each policy is worth, and the curves of the three runs."""
    rows: list[tuple[str, float, tuple[float, float] | None]] = [
        ("the reference", result.reference.mean, (result.reference.low, result.reference.high)),
        *((NAMES[which], of.mean, (of.low, of.high)) for which, of in _three(result).items()),
    ]
    said = "; ".join(f"{name}: {number(value, 3)}" for name, value, _ in rows)
    low = min(0.0, *(value for _, value, _ in rows))
    draw = bars(rows, "Quality of held-out answers", "hidden quality", share=False, strong=[NAMES["after"]], low=low)
    found = [chart("quality", f"Quality of held-out answers. {said}.", draw)]
    records = {
        which: read_run((root / "healthy" if which == "healthy" else root) / "runs" / result.runs[which], samples=0)
        for which in NAMES
    }
    for name in case.curves:
        series = {NAMES[which]: run.series(name) for which, run in records.items()}
        curves = {label: (list(s.steps), list(s.values)) for label, s in series.items() if s is not None}
        metric = explain(name)
        if curves and metric is not None:
            of = f" ({name.removeprefix('eval_').removeprefix(metric.name[:-1])})" if metric.name.endswith("*") else ""
            title = f"{metric.title}{of}" + (", held out" if name.startswith("eval_") else "")
            draw = lines(curves, title, metric.unit)
            found.append(chart(name, f"{title} by step in the three runs.", draw))
    return found


def _last(run: Path) -> dict[str, Any] | None:
    """Return the last answers of the run with the fault, whether or not their policy was kept."""
    found = read_run(run).samples
    step = max((sample.step for sample in found), default=0)
    return {"step": step, "answers": [s for s in found if s.step == step][:LAST]} if step else None


def _samples(measured: Mapping[str, Measured]) -> list[dict[str, Any]]:
    """Return prompts, evenly spread and not picked, with the answer of each policy."""
    asked: Sequence[Any] = measured["fault"].answers
    stride = max(1, len(asked) // SHOWN)
    return [
        {
            "prompt": asked[n][0].text,
            "answers": [
                {"name": NAMES[w], "text": of[1], "quality": of[2]} for w in NAMES for of in [measured[w].answers[n]]
            ],
        }
        for n in list(range(0, len(asked), stride))[:SHOWN]
    ]
