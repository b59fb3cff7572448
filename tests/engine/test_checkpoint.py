"""Checkpoints come back as they were, damage is passed over, and no kill leaves a run without a good one."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from prefloop.engine import checkpoint
from prefloop.engine.checkpoint import KEEP, load_checkpoint, save_checkpoint
from prefloop.errors import TrainingError


def save(root: Path, step: int, size: int = 20) -> None:
    files = {"policy": {"w": torch.full((size,), float(step))}, "policy.adam": {"0.step": torch.tensor(float(step))}}
    save_checkpoint(root, step, files, {"learner": {"steps": step}, "text": "straße", "none": None})


def test_everything_comes_back_as_it_was(tmp_path: Path) -> None:
    shared = torch.arange(12.0).view(3, 4)
    files = {
        "policy": {"a.b": shared, "half": torch.randn(5).bfloat16(), "turned": shared.T, "again": shared},
        "policy.adam": {"0.step": torch.tensor(7.0), "empty": torch.zeros(0)},
    }
    save_checkpoint(tmp_path, 7, files, {"x": 0.1 + 0.2, "list": [1, None, "é"]})
    found = load_checkpoint(tmp_path)
    assert found is not None and found.step == 7
    assert found.state == {"x": 0.1 + 0.2, "list": [1, None, "é"]}
    assert found.files.keys() == files.keys()
    for name, tensors in files.items():
        assert found.files[name].keys() == tensors.keys()
        for key, tensor in tensors.items():
            assert found.files[name][key].dtype == tensor.dtype and torch.equal(found.files[name][key], tensor)


def test_there_is_nothing_to_load_where_nothing_was_saved(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "absent") is None
    assert load_checkpoint(tmp_path) is None


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    for step in (5, 10, 15, 100_000_000):
        save(tmp_path, step)
    assert KEEP == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000015", "step-100000000"]
    found = load_checkpoint(tmp_path)
    assert found is not None and found.step == 100_000_000


def test_what_a_kill_left_of_older_ones_is_dropped_when_the_run_goes_on(tmp_path: Path) -> None:
    save(tmp_path, 6)
    shutil.copytree(tmp_path / "step-00000006", tmp_path / "aside")
    for step in (9, 10):
        save(tmp_path, step)
    (tmp_path / "aside").rename(tmp_path / "step-00000006")
    (tmp_path / "step-00000003").mkdir()
    (tmp_path / "step-00000003" / "policy.safetensors").write_bytes(b"half")
    found = load_checkpoint(tmp_path)
    assert found is not None and found.step == 10
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["step-00000009", "step-00000010"]


def test_what_is_older_stays_where_the_newest_are_damaged(tmp_path: Path) -> None:
    save(tmp_path, 6)
    shutil.copytree(tmp_path / "step-00000006", tmp_path / "aside")
    for step in (9, 10):
        save(tmp_path, step)
        (tmp_path / f"step-{step:08d}" / "state.json").write_text("{")
    (tmp_path / "aside").rename(tmp_path / "step-00000006")
    found = load_checkpoint(tmp_path)
    assert found is not None and found.step == 6 and (tmp_path / "step-00000006").is_dir()


def test_a_checkpoint_saved_again_replaces_the_first(tmp_path: Path) -> None:
    save(tmp_path, 3, size=4)
    save(tmp_path, 3, size=9)
    found = load_checkpoint(tmp_path)
    assert found is not None and len(found.files["policy"]["w"]) == 9
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000003"]


FILES = ["policy.safetensors", "policy.adam.safetensors", "state.json"]


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_off_anywhere_sends_the_loader_to_the_checkpoint_before(tmp_path: Path, name: str) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    path = tmp_path / "step-00000002" / name
    body = path.read_bytes()
    for length in {0, 1, 7, 8, 9, len(body) // 2, len(body) - 1}:
        path.write_bytes(body[:length])
        found = load_checkpoint(tmp_path)
        assert found is not None and found.step == 1, f"{name} cut to {length} bytes"
    path.unlink()
    found = load_checkpoint(tmp_path)
    assert found is not None and found.step == 1


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_anywhere_sends_the_loader_to_the_checkpoint_before(tmp_path: Path, name: str) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    path = tmp_path / "step-00000002" / name
    body = path.read_bytes()
    for place in range(0, len(body), 3 if name == "state.json" else 11):
        path.write_bytes(body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :])
        found = load_checkpoint(tmp_path)
        assert found is not None and found.step == 1, f"bit 0 of byte {place} of {name}"
    path.write_bytes(body)
    found = load_checkpoint(tmp_path)
    assert found is not None and found.step == 2


def test_files_of_another_checkpoint_are_not_taken_for_this_ones(tmp_path: Path) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    shutil.copy(tmp_path / "step-00000001" / FILES[0], tmp_path / "step-00000002" / FILES[0])
    found = load_checkpoint(tmp_path)
    assert found is not None and found.step == 1


@pytest.mark.parametrize("body", ["[]", "3", '"x"', "{}", '{"step": 2}', '{"files": {}, "state": {}}'])
def test_a_state_file_with_something_else_in_it_is_passed_over(tmp_path: Path, body: str) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    (tmp_path / "step-00000002" / "state.json").write_text(body)
    found = load_checkpoint(tmp_path)
    assert found is not None and found.step == 1


def test_where_all_are_damaged_there_is_none(tmp_path: Path) -> None:
    for step in (1, 2):
        save(tmp_path, step)
        (tmp_path / f"step-{step:08d}" / "state.json").write_text("{")
    assert load_checkpoint(tmp_path) is None


def test_a_whole_checkpoint_of_another_version_is_refused_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passing it over would begin again from nothing without a word."""
    monkeypatch.setattr(checkpoint, "FORMAT", 1)
    save_checkpoint(tmp_path, 3, {"a": {"x": torch.ones(2)}}, {})
    monkeypatch.undo()
    with pytest.raises(TrainingError, match="another version of prefloop.*--new"):
        load_checkpoint(tmp_path)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    save(tmp_path, 1)
    assert {p.suffix for p in (tmp_path / "step-00000001").iterdir()} == {".safetensors", ".json"}


@pytest.mark.slow
@pytest.mark.parametrize("what", ["checkpoint", "publish", "publish-again"])
def test_a_kill_at_any_call_into_the_file_system_leaves_the_old_or_the_new(tmp_path: Path, what: str) -> None:
    script = Path(__file__).with_name("failpoints.py")
    done = subprocess.run(
        [sys.executable, str(script), what, str(tmp_path / "work")], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.strip().splitlines()[-1])
    assert report["problems"] == []
    assert report["kills"] > 10


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the names of open files are read from /proc")
def test_everything_is_on_disk_before_the_name_changes_and_the_name_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut asks for this: fsync of each file and of the folder, then the rename, then fsync of the parent."""
    events: list[tuple[str, str]] = []
    fsync, rename = os.fsync, os.rename

    def seen(descriptor: int) -> None:
        events.append(("fsync", os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def renamed(source: Any, target: Any, **more: Any) -> None:
        events.append(("rename", str(target)))
        rename(source, target, **more)

    monkeypatch.setattr(os, "fsync", seen)
    monkeypatch.setattr(os, "rename", renamed)
    save(tmp_path, 1)
    place = events.index(("rename", str(tmp_path / "step-00000001")))
    aside = tmp_path / ".step-00000001.new"
    assert {path for kind, path in events[:place] if kind == "fsync"} == {str(aside), *(str(aside / f) for f in FILES)}
    assert events[place - 1] == ("fsync", str(aside))
    assert events[place + 1] == ("fsync", str(tmp_path))


def test_a_full_disk_is_an_error_that_says_so_and_keeps_what_was_saved(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk: write() fails in the same places."""
    save(tmp_path, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
    try:
        with pytest.raises(TrainingError, match="could not be written.*still there"):
            save(tmp_path, 2, size=100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    found = load_checkpoint(tmp_path)
    assert found is not None and found.step == 1
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]
    save(tmp_path, 2)
    found = load_checkpoint(tmp_path)
    assert found is not None and found.step == 2
