"""Reads a run and says how it stands: its state, how far it is, how long it will take, and what its diagnosis found.

What was read is kept until one of the run's files changes. A diagnosis of answers can take a second, so a page with
many runs makes as many as fit into `PATIENCE_S`, the newest runs first, and the others when it is asked for again.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, TypeVar

from prefloop import process, record
from prefloop.diagnose.diagnosis import Diagnosis, diagnose
from prefloop.diagnose.reading import STOPPED, read_run
from prefloop.diagnose.records import RunRecord, Series
from prefloop.errors import DataError
from prefloop.known_algorithms import is_offline
from prefloop.web.watch.found import Found

State = Literal["running", "done", "failed", "stopped half-way", "unknown"]
REMEMBERED = 500  # runs
PATIENCE_S = 2.0
QUIET_S = 120.0  # A run that wrote nothing for so long, and for ten of its steps, counts as stopped.
FILES = ("manifest.json", "metrics.jsonl", "timings.jsonl", "result.json", "evidence.json", "samples.jsonl")
_Value = TypeVar("_Value")
Signature = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Look:
    """A run as it stands. diagnosis: None until there was time for it.

    done, steps: finished and planned steps; None where the run has none, or does not say how many.
    left_s: seconds that it will take still; None of a run that does not go on, or whose length is not known.
    touched: when its newest file was written, in seconds since 1970.
    """

    found: Found
    run: RunRecord
    state: State
    done: int
    steps: int | None
    left_s: float | None
    touched: float
    diagnosis: Diagnosis | None

    @property
    def share(self) -> float | None:
        """How much of the run is done; None where that is not known."""
        return min(1.0, self.done / self.steps) if self.steps else None

    @property
    def began(self) -> float | None:
        """When the run began, in seconds since 1970."""
        return moment(self.run.manifest.get("started_at"))

    @property
    def round(self) -> int | None:
        """The round that the run belongs to; None of one that does not say."""
        return self.run.round if "round" in self.run.inputs or "round" in self.run.result else None


class Looks:
    """Keeps what was read of runs. Several threads may use it; at worst two of them read the same run."""

    def __init__(self) -> None:
        self._records: OrderedDict[Path, tuple[Signature, RunRecord]] = OrderedDict()
        self._diagnoses: OrderedDict[Path, tuple[tuple[Signature, bool], Diagnosis]] = OrderedDict()

    def all(self, found: Sequence[Found], patience_s: float = PATIENCE_S) -> list[Look]:
        """Return the newest runs first, with as many diagnoses as there is time for."""
        until = time.monotonic() + patience_s
        looks = [self.look(run, wait=False) for run in found]
        looks.sort(key=lambda look: (-(look.began or look.touched), look.found.key))
        return [
            self.look(look.found) if look.diagnosis is None and time.monotonic() < until else look for look in looks
        ]

    def look(self, found: Found, wait: bool = True) -> Look:
        """Return a run as it stands now. wait: whether its diagnosis is made where it is not there yet."""
        signature = _signature(found.path)
        run = self._record(found.path, signature)
        touched = max((at for at, _ in signature), default=0) / 1e9
        state = state_of(found, run, touched)
        steps = planned_steps(run)
        return Look(
            found=found,
            run=run,
            state=state,
            done=run.steps,
            steps=steps,
            left_s=time_left(run, steps, touched) if state == "running" else None,
            touched=touched,
            diagnosis=self._diagnosis(found.path, signature, run, state == "running", wait),
        )

    def _record(self, path: Path, signature: Signature) -> RunRecord:
        known = self._records.get(path)
        if known is not None and known[0] == signature:
            return known[1]
        run = read_run(path, samples=0)
        _keep(self._records, path, (signature, run))
        return run

    def _diagnosis(self, path: Path, signature: Signature, run: RunRecord, live: bool, wait: bool) -> Diagnosis | None:
        """A run that goes on is asked the rules that are asked while training; a finished one is asked all."""
        known = self._diagnoses.get(path)
        if known is not None and known[0] == (signature, live):
            return known[1]
        if not wait:
            return None
        try:
            made = diagnose(run, live=True) if live else diagnose(read_run(path))
        except Exception as error:  # noqa: BLE001 -- one damaged run must not hide the others, nor its own curves
            problem = f"the diagnosis could not be made ({type(error).__name__}: {error})"
            made = Diagnosis(run.name, run.stage, run.status, run.steps, (), (), (*run.problems, problem))
        _keep(self._diagnoses, path, ((signature, live), made))
        return made


def _keep(known: OrderedDict[Path, _Value], path: Path, value: _Value) -> None:
    known[path] = value
    known.move_to_end(path)
    while len(known) > REMEMBERED:
        known.popitem(last=False)


def _signature(path: Path) -> Signature:
    """What tells whether a file of the run has changed."""
    return tuple(stat for name in FILES if (stat := _stat(path / name)) is not None)


def _stat(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def state_of(found: Found, run: RunRecord, touched: float) -> State:
    """Return what became of a run. A run that says "running" goes on only while something still writes it.

    On the machine where it runs, its manifest and the project's lock name its process. From another machine nobody
    sees that process: there the run goes on while its files are fresh.
    """
    if run.status in ("done", "failed", STOPPED):
        return run.status  # type: ignore[return-value]
    if run.status != "running":
        return "unknown"
    if process.runs(run.manifest.get("process")) is False:  # It has gone since the run was read.
        return STOPPED
    worker = record.holder(found.place.root / record.LOCK_NAME)
    if worker is not None and record.is_alive(worker) and _is_newest(found.path, run):
        return "running"
    pace = seconds_a_step(run, touched) or 0.0
    return "running" if time.time() - touched < max(QUIET_S, 10 * pace) else STOPPED


def _is_newest(path: Path, run: RunRecord) -> bool:
    """Return whether no other run of the project says that it began, or went on, later. One process makes one run."""
    mine = _last_began(run.manifest)
    for other in record.runs(path.parent.parent):
        if other.path == path:
            continue
        try:
            manifest = other.manifest
        except (OSError, DataError):
            continue
        if manifest.get("status") == "running" and _last_began(manifest) > mine:
            return False
    return True


def _last_began(manifest: object) -> str:
    return str(manifest.get("resumed_at") or manifest.get("started_at") or "") if isinstance(manifest, dict) else ""


def planned_steps(run: RunRecord) -> int | None:
    """Return how many steps the run will have: as it noted itself, or by its settings; None where neither says."""
    noted = run.manifest.get("steps")
    if isinstance(noted, int) and noted > 0:
        return noted
    steps = run.align("steps")
    online = run.stage == "align" and not is_offline(str(run.align("algorithm", "")))
    if online and isinstance(steps, int) and steps > 0:
        return steps
    return run.steps or None if run.status == "done" else None


def seconds_a_step(run: RunRecord, touched: float) -> float | None:
    """Return the pace of a run: wall-clock time by steps, evaluations included.

    A run that was resumed does not say how long it stood still; there the sum of its timed parts has to do.
    """
    began = moment(run.manifest.get("started_at"))
    if began is not None and not run.manifest.get("resumed_at") and run.steps >= 3 and touched > began:
        return (touched - began) / run.steps
    spent = speed(run.seconds.values())
    return sum(s for _, s in spent) / len(spent) if spent else None


def speed(parts: Iterable[Series]) -> list[tuple[int, float]]:
    """Return the seconds of each step, all its parts together."""
    total: dict[int, float] = {}
    for part in parts:
        for step, value in zip(part.steps, part.values, strict=True):
            total[int(step)] = total.get(int(step), 0.0) + float(value)
    return sorted(total.items())


def time_left(run: RunRecord, steps: int | None, touched: float) -> float | None:
    pace = seconds_a_step(run, touched)
    if steps is None or pace is None or not math.isfinite(pace) or not run.steps:
        return None
    return max(0.0, (steps - run.steps) * pace - (time.time() - touched))


def moment(text: object) -> float | None:
    """Return an ISO time as seconds since 1970; None where it is none."""
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except (ValueError, OverflowError, OSError):
        return None
