"""Says which of a round's `align` runs gives the round's policy, by what `[run] choose` names.

A run is chosen by its figures on the validation prompts, which also chose its checkpoint. `evaluate` measures it on
other prompts, so that what chooses is not what is reported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from prefloop.models.folder import has_weights
from prefloop.record import Run
from prefloop.results import Aligned, read_aligned
from prefloop.store import ModelRow

FRONT = "front"  # where the manifest notes that a run is a point of `prefloop frontier`


@dataclass(frozen=True)
class Candidate:
    """Describes a finished run of `align`.

    result: None where the run's folder is lost.  gone: the weights of that policy are no longer there.
    front: it is a point of `prefloop frontier`, and nobody asked for it by itself.
    """

    run: str
    round: int
    row: ModelRow | None
    result: Aligned | None
    judged_by: Mapping[str, Any]  # reward models that its figures are by: {criterion: weights}
    gone: bool = False
    objective: Mapping[str, Any] = field(default_factory=dict)  # see `objective_of`
    front: bool = False

    @property
    def unchanged(self) -> bool:
        return self.result is not None and self.result.best_step == 0

    @property
    def collapsed(self) -> list[str]:
        """Return the signs of collapse in the weights that were kept."""
        return list(self.result.collapsed or ()) if self.result else []

    def figure(self, name: Literal["win_rate", "reward"]) -> float | None:
        """A figure on validation prompts; None where it was not measured."""
        if self.result is None:
            return None
        return self.result.win_rate if name == "win_rate" else self.result.reward


def candidates(runs: Sequence[Run], rows: Sequence[ModelRow], root: Path) -> list[Candidate]:
    """Return every finished run of `align` in a project folder, oldest first, after policies without a run folder."""
    rows = [row for row in rows if row.version.startswith("align-")]
    by_run, names = {row.run_id: row for row in rows}, {run.name for run in runs}
    lost = [row for row in rows if row.run_id not in names]
    found = [Candidate(row.version, int(row.metrics.get("round") or 0), row, None, {}, True) for row in lost]
    for run in runs:
        manifest = run.manifest
        if manifest["stage"] == "align" and manifest["status"] == "done":
            result, inputs = read_aligned(run.result, run.name), manifest["inputs"]
            round = int(inputs.get("round", 0)) if result is None or result.round is None else result.round
            judged_by, objective = inputs.get("rewards", {}), objective_of(manifest["config"].get("align", {}))
            row = by_run.get(run.name)
            gone = row is not None and not has_weights(root / row.path)
            front = bool(manifest.get(FRONT))
            found.append(Candidate(run.name, round, row, result, judged_by, gone, objective, front))
    return found


def objective_of(align: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the settings of `[align]` make of several criteria; {} for the sum of all, equally weighted."""
    objective, weights = align.get("objective") or {}, align.get("reward_weights")
    said = {key: objective.get(key) for key in ("kind", "maximise", "subject_to", "scorers")}
    found = {f"[align.objective] {key}": value for key, value in said.items() if value and value != "sum"}
    return found | ({"[align] reward_weights": dict(weights)} if weights else {})


def choose(found: Sequence[Candidate], how: str, judges: Mapping[str, Any]) -> Candidate | None:
    """Return the candidate of one round that counts; None where none has a policy of its own.

    how:    "win_rate", "reward", "newest", or a run's name
    judges: the round's reward models as they are now, because figures by other ones cannot be compared

    Figures of another objective cannot be compared either: runs for the objective of the newest run count. Where none
    of these made a policy, as where none kept a bound, none is taken that was made for something else. Points of a
    front try objectives out, so that they count by name alone. The settings of the command that asks play no part, or
    else a later round would change what an earlier one came to.

    Candidates whose files are there come first, then those that have not collapsed, then those that were measured.
    Where figures are equal, or there are none, the newest one counts.
    """
    named = [c for c in found if c.run == how and c.row and not c.unchanged]
    if named:
        return named[0]
    asked = [c for c in found if not c.front]
    own = [c for c in asked if c.row and not c.unchanged and c.objective == asked[-1].objective]
    there = [c for c in own if not c.gone] or own
    healthy = [c for c in there if not c.collapsed] or there
    name: Literal["win_rate", "reward"] = "reward" if how == "reward" else "win_rate"
    measured = [c for c in healthy if c.figure(name) is not None and c.judged_by == judges]
    if how == "newest" or not measured:
        return healthy[-1] if healthy else None
    return max(reversed(measured), key=lambda c: c.figure(name) or 0.0)


def passed_over(found: Sequence[Candidate], round: int, how: str, picked: Candidate | None) -> Iterator[str]:
    """Yield which runs do not count though one might expect it, and why.

    found: the candidates of all rounds

    A run that `[run] choose` names counts for its own round; where there is no such run, no round goes by it.
    """
    if picked is None:
        yield from _none_counts(
            [c for c in found if c.round == round and c.row and not c.unchanged and not c.gone], round
        )
        return
    if picked.gone:
        return
    goes = f"round {round} goes by {picked.run}"
    for lost in (c.run for c in found if c.round == round and c.gone):
        yield f"{lost} is passed over, for its files are gone: {goes}"
    if how.startswith("align-"):
        named = next((c for c in found if c.run == how), None)
        if named is None:
            yield f'[run] choose names "{how}", but no finished run of align is called that: {goes}'
        elif named.unchanged and named.round == round:
            yield f"[run] choose names {how}, which made no policy: {goes}"


def _none_counts(made: Sequence[Candidate], round: int) -> Iterator[str]:
    """Yield why a round keeps the policy that it started from, though runs of it made one."""
    if not made:
        return
    names = ", ".join(c.run for c in made)
    why = (
        f"{names} tried objectives out for prefloop frontier"
        if all(c.front for c in made)
        else f"the newest run made none, and {names} had another objective"
    )
    yield (
        f"round {round} keeps the policy that it started from: {why}. To take one of them: "
        f'[run] choose = "{made[-1].run}"'
    )
