"""What a run logs stands in each tracker as it stands in metrics.jsonl: each step once, whatever happens on the way."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from importlib import util
from pathlib import Path
from typing import Any

import pytest

from prefloop import record
from prefloop.config import Track, load_config
from prefloop.errors import ConfigError
from prefloop.record import Run
from prefloop.track.tracking import STATE, Tracking, check_installed, named

CONFIG = {"project": {"name": "p", "store": "postgresql://me:secret@host/db"}, "align": {"lr": 0.001}}
Logged = dict[str, list[tuple[int, float]]]


@pytest.fixture(autouse=True)
def own_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of the machine's user counts, and none that a library makes stays."""
    for name in [n for n in os.environ if n.startswith(("WANDB_", "MLFLOW_", "TRACKIO_"))]:
        monkeypatch.delenv(name)
    for name in ("WANDB_ERROR_REPORTING", "MLFLOW_DISABLE_TELEMETRY", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
        monkeypatch.setenv(name, {"WANDB_ERROR_REPORTING": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}.get(name, "2"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb-config"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "wandb-data"))


def begin(root: Path, to: str, said: list[str]) -> Run:
    run = record.begin_run(root, "align", "f", CONFIG, inputs={}, seed=0)
    listener = Tracking(Track(to=(to,)), root / "tracking", "my project", said.append)  # type: ignore[arg-type]
    return record.Run(run.path, run.resumed, (listener,))


def values(step: int) -> dict[str, float]:
    return {"reward": step / 4, "eval_reward": step / 8, "broken": float("nan")}


def logged_and_resumed(root: Path, to: str) -> list[str]:
    """Log steps 0 to 4, and in a second process from the checkpoint after step 2 to the end."""
    said: list[str] = []
    run = begin(root, to, said)
    for step in range(5):
        run.metric(step, values(step))
    for tracker in run.listeners[0].open.values():  # type: ignore[attr-defined]
        tracker.close(False)  # what a library does when its process ends
    if to == "wandb":
        time.sleep(1.1)  # it names the files of a process by the second
    again = begin(root, to, said)
    assert again.resumed and again.path == run.path
    again.rewind(2)
    for step in range(3, 8):
        again.metric(step, values(step))
    again.finish({"steps": 7})
    return said


EXPECTED: Logged = {
    "train/reward": [(step, step / 4) for step in range(8)],
    "eval/reward": [(step, step / 8) for step in range(8)],
}


def of_tensorboard(root: Path) -> Logged:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(root / "tracking" / "tensorboard" / "my project" / "align-001"))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def of_mlflow(root: Path) -> Logged:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{root / 'tracking' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("my project")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "align-001" and run.info.status == "FINISHED" and run.data.params["align.lr"] == "0.001"
    assert not any("secret" in value for value in run.data.params.values())
    names = [name for name in run.data.metrics if not name.startswith("system/")]
    return {n: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, n)] for n in names}


def wandb_records(data: bytes) -> Iterator[bytes]:
    """The records of a .wandb file: LevelDB's log format behind a header of 7 bytes."""
    at, parts = 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:  # no header fits in the rest of a block
            at += left
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def of_wandb(root: Path) -> Logged:
    """What its files hold. Its own process may write the last of it a little after it was told to finish."""
    until = time.monotonic() + 30
    found = _of_wandb(root)
    while sum(map(len, found.values())) < sum(map(len, EXPECTED.values())) and time.monotonic() < until:
        time.sleep(0.2)
        found = _of_wandb(root)
    return found


def _of_wandb(root: Path) -> Logged:
    from wandb.proto import wandb_internal_pb2

    found: Logged = {}
    files = list((root / "tracking" / "wandb").glob("offline-run-*/*.wandb"))
    assert len({file.name for file in files}) == 1, "both processes wrote one run"
    for file in files:
        for data in wandb_records(file.read_bytes()):
            line = wandb_internal_pb2.Record()
            line.ParseFromString(data)
            assert b"secret" not in data
            row = {"/".join(item.nested_key) or item.key: item.value_json for item in line.history.item}
            for name in row:
                if not name.startswith("_"):
                    found.setdefault(name, []).append((line.history.step.num, float(row[name])))
    return found


def of_trackio(root: Path) -> Logged:
    (file,) = (root / "tracking" / "trackio").glob("*.db")
    with closing(sqlite3.connect(file)) as store:
        rows = store.execute("select step, metrics from metrics").fetchall()
    found: Logged = {}
    for step, text in rows:
        for name, value in json.loads(text).items():
            found.setdefault(name, []).append((step, value))
    return found


READ = {"tensorboard": of_tensorboard, "wandb": of_wandb, "mlflow": of_mlflow, "trackio": of_trackio}


@pytest.mark.parametrize("to", READ)
def test_a_tracker_gets_each_step_once_where_a_run_was_killed_and_resumed(
    tmp_path: Path, to: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if util.find_spec(to) is None:
        pytest.skip(f"{to} is not installed: this test reads back what it wrote")
    monkeypatch.chdir(tmp_path)
    assert logged_and_resumed(tmp_path, to) == []
    assert {name: sorted(rows) for name, rows in READ[to](tmp_path).items()} == EXPECTED


def test_steps_from_before_tracking_was_turned_on_are_written_too(tmp_path: Path) -> None:
    run = record.begin_run(tmp_path, "align", "f", CONFIG, inputs={}, seed=0)
    for step in range(3):
        run.metric(step, values(step))
    said: list[str] = []
    later = begin(tmp_path, "tensorboard", said)
    later.metric(3, values(3))
    later.finish({})
    assert said == [] and [step for step, _ in of_tensorboard(tmp_path)["train/reward"]] == [0, 1, 2, 3]


def test_a_tracker_that_fails_is_named_once_and_the_run_goes_on(tmp_path: Path) -> None:
    said: list[str] = []
    run = begin(tmp_path, "tensorboard", said)
    (tmp_path / "tracking").write_text("a file where the folder should be")
    for step in range(3):
        run.metric(step, values(step))
    run.finish({})
    assert run.status == "done" and len(run.metrics()) == 3
    assert len(said) == 1 and said[0].startswith("warning: tensorboard no longer gets the metrics of align-001 (")


def test_a_run_that_logs_nothing_makes_no_files(tmp_path: Path) -> None:
    begin(tmp_path, "tensorboard", []).finish({})
    assert not (tmp_path / "tracking").exists() and not (tmp_path / "runs" / "align-001" / STATE).exists()


def test_wandb_without_a_login_is_refused_and_never_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    said: list[str] = []
    run = begin(tmp_path, "wandb", said)
    began = time.monotonic()
    run.metric(0, values(0))
    assert len(said) == 1 and "run wandb login" in said[0] and time.monotonic() - began < 60


def test_a_library_that_is_not_there_is_an_error_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    for name in READ:
        monkeypatch.delitem(sys.modules, name, raising=False)
        with pytest.raises(ConfigError, match=rf"\[track\] to names {name}, .*pip install 'prefloop\[{name}\]'"):
            check_installed([name])
    check_installed([])


def test_tracking_decides_nothing_and_a_misspelt_tracker_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "prefloop.toml").write_text('[track]\nto = ["tensorboard", "mlflow"]\nproject = "x"\n')
    config = load_config(tmp_path / "prefloop.toml")
    assert config.track.to == ("tensorboard", "mlflow") and config.track.deciding() == Track().deciding()
    with pytest.raises(ConfigError, match="track.to"):
        load_config(tmp_path / "prefloop.toml", ['track.to=["tensorbord"]'])


def test_names_are_grouped_and_what_is_no_number_is_left_out() -> None:
    mixed: dict[str, Any] = {"eval_kl": 1, "kl": 2.5, "a": None, "b": float("inf")}
    assert named(mixed) == {"eval/kl": 1.0, "train/kl": 2.5}
