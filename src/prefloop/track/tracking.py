"""Hands what a run logs to the trackers of `[track] to`: each step once, also where a run was resumed.

`metrics.jsonl` stays the record, and a tracker is a copy of it. So a tracker that fails is warned about once and left
out, and a step that is not there yet (tracking was turned on late, or the process was killed) is taken from the file.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module, util
from pathlib import Path
from typing import Any

from prefloop.config import Track
from prefloop.errors import ConfigError
from prefloop.record import Run, write_json_atomic
from prefloop.track.base import Tracked, Tracker

STATE = "tracked.json"  # in the run's folder: {tracker: {"id": its own name of the run, "step": the last one sent}}
_CLASSES = {"tensorboard": "TensorBoard", "wandb": "Wandb", "mlflow": "Mlflow", "trackio": "Trackio"}


def check_installed(trackers: Sequence[str]) -> None:
    """Raise ConfigError for the first tracker whose library is not here. Nothing is loaded."""
    for name in trackers:
        if util.find_spec(name) is None:
            raise ConfigError(f"[track] to names {name}, which is not installed. Run: pip install 'prefloop[{name}]'")


def named(values: Mapping[str, Any]) -> dict[str, float]:
    """Return finite metrics by the names that trackers group by: "eval/reward" of eval_reward, "train/reward"."""
    return {
        f"eval/{name.removeprefix('eval_')}" if name.startswith("eval_") else f"train/{name}": float(value)
        for name, value in values.items()
        if value is not None and math.isfinite(value)
    }


@dataclass
class Tracking:
    """Listens to one run. folder: where local files go.  project: the name that the run is filed under."""

    settings: Track
    folder: Path
    project: str
    say: Callable[[str], None]
    open: dict[str, Tracker] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)

    def logged(self, run: Run, step: int, values: Mapping[str, float]) -> None:
        for name in self.settings.to:
            self._guarded(name, run, partial(self._log, name, run, step, values))

    def ended(self, run: Run) -> None:
        sent = _state(run)
        done = run.status == "done"
        for name in self.settings.to:
            if name in self.open or name in sent:  # A stage that logs nothing is not tracked.
                self._guarded(name, run, partial(self._close, name, run, done))
        self.open.clear()

    def _close(self, name: str, run: Run, done: bool) -> None:
        self._tracker(name, run).close(done)

    def _log(self, name: str, run: Run, step: int, values: Mapping[str, float]) -> None:
        if name not in self.open:
            self._tracker(name, run)  # It is given what is in the file, this step too.
        else:
            self._send(name, run, step, values)

    def _tracker(self, name: str, run: Run) -> Tracker:
        """Return the tracker of a run; a new one gets all steps of metrics.jsonl that it has not got."""
        if name in self.open:
            return self.open[name]
        module = import_module(f"prefloop.track.{name}")
        before = _state(run).get(name, {})
        tracker: Tracker = getattr(module, _CLASSES[name])(self._tracked(run, before.get("id")))
        self.open[name] = tracker
        since = -1 if name == "tensorboard" else int(before.get("step", -1))
        self._keep(name, run, since)
        for line in run.metrics():
            if line["step"] > since:
                self._send(name, run, line["step"], {k: v for k, v in line.items() if k != "step"})
        return tracker

    def _send(self, name: str, run: Run, step: int, values: Mapping[str, float]) -> None:
        """Write a step, unless the tracker got it from a process that was killed before its next checkpoint."""
        if step > int(_state(run)[name]["step"]):
            self._keep(name, run, step)  # first: a kill in between leaves a step out, and doubles none
            self.open[name].log(step, named(values))

    def _keep(self, name: str, run: Run, step: int) -> None:
        write_json_atomic(run.path / STATE, _state(run) | {name: {"id": self.open[name].known, "step": step}})

    def _tracked(self, run: Run, known: str | None) -> Tracked:
        manifest = run.manifest
        config = {key: value for key, value in manifest["config"].items() if key != "track"}
        config["project"] = {key: value for key, value in config.get("project", {}).items() if key != "store"}
        told = f"{run.path.absolute()} {manifest['fingerprint']} {manifest['started_at']}"
        id = f"{run.name}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"
        return Tracked(self.project, run.name, manifest["stage"], config, self.folder, id, known)

    def _guarded(self, name: str, run: Run, act: Callable[[], object]) -> None:
        """Do something with a tracker. Whatever it raises is said once, and the run goes on without it."""
        if name in self.failed:
            return
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                act()
        except Exception as error:  # noqa: BLE001 -- no service may end a run
            self.failed.add(name)
            reason = (str(error).strip().splitlines() or [""])[0][:300]
            self.say(
                f"warning: {name} no longer gets the metrics of {run.name} ({type(error).__name__}: {reason}); the run "
                "goes on, and metrics.jsonl has all of them"
            )


def _state(run: Run) -> dict[str, dict[str, Any]]:
    """Return what was sent; {} where nothing was, or the file is damaged."""
    try:
        found = json.loads((run.path / STATE).read_text(encoding="utf-8"))
        return {name: dict(sent) for name, sent in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
