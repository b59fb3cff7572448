"""The machine: steps that slow down."""

from __future__ import annotations

import numpy as np

from prefloop.diagnose.finding import Expected
from prefloop.diagnose.reading import STOPPED
from prefloop.diagnose.records import RunRecord, Series
from prefloop.diagnose.registry import Seen, rule
from prefloop.diagnose.statistics import trend


@rule(
    "steps-slower",
    kind="trend",
    stages=("align", "reward", "sft"),
    severity="note",
    expected=Expected(
        "within twice the first steps, for the same number of tokens", "seconds", "median", "a step", "our rule"
    ),
    broke="A step takes as long as the one before it.",
    meaning="Memory that is swapped, another process, or a cache that grows.",
    cannot_tell="Whether this machine is shared.",
)
def steps_slower(run: RunRecord) -> Seen | None:
    parts = [s for s in run.seconds.values() if len(s) >= 8]
    if not parts:
        return None
    steps = sorted(set.intersection(*(set(map(int, s.steps)) for s in parts)))
    if len(steps) < 8:
        return None
    at = [dict(zip(map(int, s.steps), s.values, strict=True)) for s in parts]
    total = Series(np.array(steps), np.array([sum(part[n] for part in at) for n in steps]))
    length = run.series("length")
    if length is not None and length.last > 1.3 * length.first:
        return None
    found = trend(total, 1)
    if found is None or total.last < 2 * total.first:
        return None
    return Seen(
        f"a step took {total.first:.2f} s at first and {total.last:.2f} s at the end",
        None,
        total.last,
        p=found,
        signal="seconds",
    )


@rule(
    "run-failed",
    kind="invariant",
    stages=("align", "reward", "sft"),
    severity="error",
    expected=Expected("done", "-", "status", "a run", "the run's manifest"),
    broke="A run ends by itself.",
    meaning="The stage ended with an error. The same command goes on from the last checkpoint.",
    cannot_tell="More than the error says.",
)
def run_failed(run: RunRecord) -> Seen | None:
    reason = run.manifest.get("reason")
    if run.status != "failed" or not reason:
        return None
    return Seen(str(reason)[:300], run.steps, signal="status")


@rule(
    "run-stopped",
    kind="invariant",
    stages=("align", "reward", "sft", "evaluate"),
    severity="note",
    expected=Expected(
        "running or done", "-", "status", "a run", "the run's manifest and the processes of this machine"
    ),
    broke="A run goes on until it is done.",
    meaning="The manifest says that the run goes on, and its process has gone without a word: it was stopped by "
    "somebody, killed (by the system too, where memory ran out), or the machine was switched off.",
    cannot_tell="Who stopped it. Of a run of another machine nothing is known.",
)
def run_stopped(run: RunRecord) -> Seen | None:
    if run.status != STOPPED:
        return None
    return Seen(f"its process has gone after step {run.steps}, and left no error", run.steps, signal="status")
