"""After Ctrl-C, a full disk or a bug, code and message are right, and the same command goes on to the same result."""

from __future__ import annotations

import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

PREFLOOP = [sys.executable, "-m", "prefloop.cli.main"]


def metrics(root: Path, run: str) -> bytes:
    return (root / "runs" / run / "metrics.jsonl").read_bytes()


@pytest.mark.slow
def test_ctrl_c_ends_with_130_and_the_same_command_goes_on_to_the_same_numbers(
    prefloop: Callable, tiny_project: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    for verb in ("sft", "sample", "crowd", "reward"):
        assert prefloop(verb, "-C", tiny_project).code == 0
    twin = Path(shutil.copytree(tiny_project, tmp_path / "twin"))
    argv = ["align", "--set", "align.steps=40", "-C"]
    process = subprocess.Popen(
        [*PREFLOOP, *argv, str(tiny_project)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A job may ignore the signal.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
    )
    path, deadline = tiny_project / "runs" / "align-001" / "metrics.jsonl", time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if path.exists() and path.read_bytes().count(b"\n") >= 4:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted; the same command goes on where it stopped" in err and "Traceback" not in err
    assert not out
    assert 0 < path.read_bytes().count(b"\n") < 41, "it was over before it was interrupted"

    again = prefloop(*argv, tiny_project)
    assert again.code == 0 and "going on with" in again.err
    assert prefloop(*argv, twin).code == 0
    assert metrics(tiny_project, "align-001") == metrics(twin, "align-001")


@pytest.mark.slow
def test_a_full_disk_during_a_checkpoint_loses_nothing(
    prefloop: Callable, tiny_project: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    """A limit on file size stands in for the full disk: the optimiser's state is the first file that is too large."""
    bigger = ["--set", "model.hidden_size=96", "--set", "model.vocab_size=1000", "--set", "project.threads=1"]
    twin = Path(shutil.copytree(tiny_project, tmp_path / "twin"))
    limit = 800_000
    failed = subprocess.run(
        [*PREFLOOP, "sft", *bigger, "-C", str(tiny_project)],
        env=environment,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert failed.returncode in (1, 7), failed.stderr
    assert "checkpoints/step-00000004" in failed.stderr and "Traceback" not in failed.stderr
    assert not list((tiny_project / "runs" / "sft-001" / "checkpoints").glob("step-*"))
    again = prefloop("sft", *bigger, "-C", tiny_project)
    assert again.code == 0 and "going on with" in again.err
    assert prefloop("sft", *bigger, "-C", twin).code == 0
    assert metrics(tiny_project, "sft-001") == metrics(twin, "sft-001")


def test_a_full_disk_is_named_with_what_is_kept(
    prefloop: Callable, tiny_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    from prefloop.stages import sft

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(tiny_project / "runs" / "x"))

    monkeypatch.setattr(sft, "sft", full)
    said = prefloop("sft", "-C", tiny_project, "--json")
    assert said.code == 1
    assert said.json["error"]["type"] == "DiskFull"
    assert str(tiny_project) in said.json["error"]["message"] and "kept" in said.json["error"]["message"]


@pytest.mark.parametrize(
    ("error", "code", "part"),
    [
        (MemoryError(), 1, "token_budget"),
        (RuntimeError("CUDA out of memory. Tried to allocate"), 1, "token_budget"),
        (ZeroDivisionError("oops"), 70, "report"),
        (PermissionError(13, "Permission denied", "/x"), 1, "/x: Permission denied"),
        (KeyboardInterrupt(), 130, "the same command goes on"),
    ],
)
def test_every_end_has_its_code_and_its_advice(
    prefloop: Callable,
    tiny_project: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    part: str,
) -> None:
    from prefloop.stages import sft

    def fail(*args: object) -> None:
        raise error

    monkeypatch.setattr(sft, "sft", fail)
    said = prefloop("sft", "-C", tiny_project, "--json")
    assert said.code == code
    assert part in said.json["error"]["message"] and part in said.err
    assert ("Traceback" in said.err) is (code == 70)
