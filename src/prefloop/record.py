"""Keeps run folders: the settings of a run, its metrics step by step, and its result, by the standard library only.

    runs/reward-001/manifest.json   stage, fingerprint, status, resolved config, versions, seed, inputs
                    metrics.jsonl   one line a step; the same run gives the same bytes, interrupted or not
                    timings.jsonl   wall-clock seconds, kept apart because they differ from run to run
                    result.json     written once, at the end
                    evidence.json   what the stage knew of people, prompts and models, for `prefloop diagnose`
                    samples.jsonl   answers with their rewards, by step

A kill at any moment leaves either no run folder or one with a complete manifest.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import prefloop
from prefloop import process
from prefloop.errors import DataError

RUNS = "runs"
LOCK_NAME = ".prefloop.lock"  # of the process that makes runs; see `prefloop.store.connections.lock`
_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "scipy", "sqlalchemy", "alembic")
_NEW = ".new-"  # These folders are not yet renamed to their number.


class Listener(Protocol):
    """Hears what a run writes, once it is on disk. It raises nothing: a run does not depend on who listens."""

    def logged(self, run: Run, step: int, values: Mapping[str, float]) -> None:
        """A step's metrics were written."""
        ...

    def ended(self, run: Run) -> None:
        """The run was marked done or failed."""
        ...


@dataclass(frozen=True)
class Run:
    """Is one run of one stage. `resumed` is true if an earlier process began it; then rewind to its last checkpoint."""

    path: Path
    resumed: bool = False
    listeners: tuple[Listener, ...] = field(default=(), compare=False, repr=False)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def manifest(self) -> dict[str, Any]:
        return read_json(self.path / "manifest.json")

    @property
    def status(self) -> str:
        """ "running", "done" or "failed"."""
        return str(self.manifest["status"])

    @property
    def result(self) -> dict[str, Any]:
        """Return what `finish` was given; {} before that."""
        path = self.path / "result.json"
        return read_json(path) if path.exists() else {}

    def metric(self, step: int, values: Mapping[str, float]) -> None:
        """Append one line with sorted keys and exact floats; NaN and infinities become null.

        It is on disk on return.
        """
        line: dict[str, object] = {"step": step}
        line |= {key: _plain(values[key]) for key in sorted(values)}
        _append(self.path / "metrics.jsonl", line, sync=True)
        for listener in self.listeners:
            listener.logged(self, step, values)

    def timing(self, step: int, seconds: Mapping[str, float]) -> None:
        """Append the wall-clock seconds of a step."""
        _append(self.path / "timings.jsonl", {"step": step} | {key: round(seconds[key], 4) for key in sorted(seconds)})

    def samples(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append answers, each with its step, to samples.jsonl."""
        text = "".join(_line(row) for row in rows)
        with (self.path / "samples.jsonl").open("a", encoding="utf-8") as file:
            file.write(text)

    def metrics(self) -> list[dict[str, Any]]:
        """Return every complete line of metrics.jsonl, as a dict."""
        return list(_lines(self.path / "metrics.jsonl"))

    def rewind(self, step: int) -> None:
        """Remove all lines after a step, and a torn last line. The files are replaced atomically."""
        for name in ("metrics.jsonl", "timings.jsonl", "samples.jsonl"):
            path = self.path / name
            if path.exists():
                kept = [line for line in _lines(path) if line["step"] <= step]
                write_atomic(path, "".join(_line(line) for line in kept).encode())

    def note(self, name: str, fact: object) -> None:
        """Add to the manifest what is known only once the run has begun."""
        if self.manifest.get(name) != fact:
            self._mark(**{name: fact})

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write result.json, then mark the run done, so that a run that is done always has its result."""
        write_json_atomic(self.path / "result.json", result)
        self._mark(status="done", finished_at=_now())
        self._ended()

    def fail(self, reason: str) -> None:
        """Mark the run failed. The same stage with the same fingerprint resumes it."""
        self._mark(status="failed", reason=reason, finished_at=_now())
        self._ended()

    def _ended(self) -> None:
        for listener in self.listeners:
            listener.ended(self)

    def _mark(self, **changes: object) -> None:
        write_json_atomic(self.path / "manifest.json", self.manifest | changes)


def begin_run(
    root: Path,
    stage: str,
    fingerprint: str,
    config: Mapping[str, Any],
    *,
    inputs: Mapping[str, Any],
    seed: int,
    known: Iterable[str] = (),
    notes: Mapping[str, object] | None = None,
) -> Run:
    """Resume the unfinished run of this stage and fingerprint, or make runs/<stage>-NNN with the next number.

    fingerprint: a hash of everything that decides the outcome; a run is resumed only if it is the same
    known: names of runs whose folders may have been deleted; none of them is used again
    notes: further facts for the manifest of a new run
    """
    for run in reversed(runs(root)):
        manifest = run.manifest
        if (manifest["stage"], manifest["fingerprint"]) == (stage, fingerprint) and manifest["status"] != "done":
            again = Run(run.path, resumed=True)
            for torn in run.path.glob(".*.tmp"):  # A killed process was about to rename these files.
                torn.unlink(missing_ok=True)
            again.rewind(sys.maxsize)
            now = {"resumed_at": _now(), "command": _command(), "process": process.this_process()}
            again._mark(status="running", reason=None, finished_at=None, **now)
            return again
    manifest = {
        "stage": stage,
        "fingerprint": fingerprint,
        "status": "running",
        "config": config,
        "inputs": inputs,
        "seed": seed,
        "versions": versions(),
        "git": git_commit(root),
        "command": _command(),
        "process": process.this_process(),
        "started_at": _now(),
        "finished_at": None,
        **(notes or {}),
    }
    return Run(_make_folder(root / RUNS, stage, manifest, known))


def _make_folder(folder: Path, stage: str, manifest: Mapping[str, Any], known: Iterable[str]) -> Path:
    """Make the run's folder.

    It appears complete, by one rename; if another process took the number, the next is used.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    aside = folder / f"{_NEW}{os.getpid()}"
    aside.mkdir()
    write_json_atomic(aside / "manifest.json", manifest)
    taken = [number for name, number in map(_number, [*os.listdir(folder), *known]) if name == stage]
    number = max(taken, default=0)
    while True:
        number += 1
        path = folder / f"{stage}-{number:03d}"
        try:
            aside.rename(path)
        except OSError:
            if not path.exists():
                raise
        else:
            _sync_folder(folder)
            return path


def _sweep(folder: Path) -> None:
    """Remove unnamed folders that killed processes, or this one, left behind."""
    for path in folder.glob(f"{_NEW}*"):
        pid = path.name.removeprefix(_NEW)
        if pid.isdigit() and (int(pid) == os.getpid() or not process.is_there(int(pid))):
            shutil.rmtree(path, ignore_errors=True)


def runs(root: Path) -> list[Run]:
    """Return every run of a project, sorted by stage and number."""
    folder = root / RUNS
    names = [(*_number(path.name), path) for path in folder.iterdir()] if folder.is_dir() else []
    return [Run(path) for stage, number, path in sorted(names) if number and (path / "manifest.json").is_file()]


def find_run(root: Path, stage: str, fingerprint: str | None = None, status: str | None = "done") -> Run | None:
    """Return the newest run of a stage, or None.

    `fingerprint` and `status` restrict the search unless they are None.
    """
    for run in reversed(runs(root)):
        manifest = run.manifest
        if (
            manifest["stage"] == stage
            and fingerprint in (None, manifest["fingerprint"])
            and status in (None, manifest["status"])
        ):
            return run
    return None


class Holder(NamedTuple):
    """Describes the process that holds a lock, by the note that it leaves beside the lock's file."""

    pid: int
    command: str
    process: Mapping[str, Any]


def holder(path: Path) -> Holder | None:
    """Return the last process that wrote its name beside the lock `path`. The note of a killed process may stay."""
    try:
        note = json.loads(note_of_lock(path).read_text(encoding="utf-8"))
        return Holder(int(note["pid"]), str(note["command"]), note)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def note_of_lock(path: Path) -> Path:
    # This is another file than the lock's own, which taking the lock empties.
    return path.with_name(f"{path.name}.json")


def is_alive(found: Holder) -> bool:
    """Return whether the process of a note still runs on this machine."""
    known = process.runs(found.process)
    return process.is_there(found.pid) if "machine" not in found.process else bool(known)


def _number(name: str) -> tuple[str, int]:
    """Return ("reward", 7) for "reward-007", and ("", 0) for other names.

    Folders without a final name (".new-...") have other names.
    """
    match = re.fullmatch(r"([^.].*)-(\d{3,})", name)
    return (match[1], int(match[2])) if match else ("", 0)


def write_json_atomic(path: Path, value: object) -> None:
    """Replace a file by indented JSON, atomically. NaN and infinities become null."""
    text = json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomic(path, text.encode("utf-8", "surrogatepass"))


def write_atomic(path: Path, data: bytes) -> None:
    """Replace a file atomically, also if the power fails: sync the new bytes, rename, sync the folder."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(aside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    if os.name == "posix":  # Other systems cannot open a folder.
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def versions() -> dict[str, str | None]:
    """Return the versions of Python, the platform and each package that can change a result.

    Missing packages are None.
    """
    found: dict[str, str | None] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "prefloop": prefloop.__version__,
    }
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def git_commit(folder: Path) -> str | None:
    """Return the commit of the repository that holds the folder; None outside of one.

    It ends with "-dirty" for changed files.
    """
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(describe, cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def _plain(value: float) -> float | int | None:
    """Return a JSON number from a Python or NumPy number; None for NaN and infinities."""
    if isinstance(value, int):
        return int(value)
    number = float(value)
    return number if math.isfinite(number) else None


def _finite(value: object) -> object:
    if isinstance(value, float):
        return _plain(value)
    if isinstance(value, Mapping):
        return {str(key): _finite(child) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(child) for child in value]
    return str(value) if isinstance(value, Path) else value


def _append(path: Path, line: Mapping[str, object], *, sync: bool = False) -> None:
    with open(path, "ab") as file:
        file.write(_line(line).encode())
        file.flush()
        if sync:
            os.fsync(file.fileno())


def _line(line: Mapping[str, object]) -> str:
    return json.dumps(line, separators=(", ", ": ")) + "\n"


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the complete lines of a file. A kill during a write may leave the last line torn; it is left out."""
    if path.exists():
        with open(path, "rb") as file:
            for text in file:
                try:
                    line = json.loads(text)
                except ValueError:
                    return
                yield line


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object of a file. Raises DataError, which names it, where it is damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8", errors="surrogatepass"))
    except ValueError as error:
        value = error
    if isinstance(value, dict):
        return value
    why = f"cannot be read ({value})" if isinstance(value, ValueError) else "is not a JSON object"
    raise DataError(f"{path} {why}. Restore it from a backup, or move its run folder away and run the stage again.")


def _command() -> str:
    return shlex.join(sys.argv)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
