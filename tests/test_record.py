"""Run folders are whole or absent, equal to the byte, and resumed where they stopped."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from prefloop.errors import DataError
from prefloop.record import Run, begin_run, find_run, git_commit, runs, versions, write_atomic, write_json_atomic


def begin(root: Path, stage: str = "sft", fingerprint: str = "f1") -> Run:
    return begin_run(root, stage, fingerprint, {"lr": 0.1}, inputs={"snapshot": "abc"}, seed=7)


def test_a_new_run_says_what_it_was_asked(tmp_path: Path) -> None:
    run = begin(tmp_path)
    manifest = run.manifest
    assert run.path == tmp_path / "runs" / "sft-001" and not run.resumed and run.status == "running"
    assert (manifest["config"], manifest["inputs"], manifest["seed"]) == ({"lr": 0.1}, {"snapshot": "abc"}, 7)
    assert manifest["versions"]["python"] == sys.version.split()[0]
    assert run.result == {} and run.metrics() == []


def test_stages_count_by_themselves_and_a_finished_run_is_not_resumed(tmp_path: Path) -> None:
    names = []
    for stage in ("sft", "reward", "sft", "sft"):
        run = begin(tmp_path, stage)
        run.finish({"loss": 1.0})
        names.append(run.name)
    assert names == ["sft-001", "reward-001", "sft-002", "sft-003"]
    assert [run.name for run in runs(tmp_path)] == ["reward-001", "sft-001", "sft-002", "sft-003"]


def test_a_name_that_something_else_remembers_is_not_given_again(tmp_path: Path) -> None:
    known = ["base-abc", "sft-004", "reward-009"]
    assert begin_run(tmp_path, "sft", "f1", {}, inputs={}, seed=7, known=known).name == "sft-005"


@pytest.mark.parametrize("end", ["killed", "failed"])
def test_an_unfinished_run_of_the_same_fingerprint_is_taken_up(tmp_path: Path, end: str) -> None:
    first = begin(tmp_path)
    first.metric(1, {"loss": 2.0})
    if end == "failed":
        first.fail("the disk was full")
    other = begin(tmp_path, fingerprint="f2")
    again = begin(tmp_path)
    assert (other.name, again.name) == ("sft-002", "sft-001")
    assert again.resumed and again.status == "running" and again.manifest["reason"] is None
    assert again.metrics() == [{"step": 1, "loss": 2.0}]


def test_runs_are_found_newest_first_by_stage_fingerprint_and_status(tmp_path: Path) -> None:
    assert find_run(tmp_path, "sft") is None
    for fingerprint in ("f1", "f2", "f1"):
        begin(tmp_path, fingerprint=fingerprint).finish({})
    begin(tmp_path, fingerprint="f3")

    def found(*args: str | None) -> str | None:
        run = find_run(tmp_path, "sft", *args)
        return run.name if run else None

    assert found() == "sft-003"
    assert found("f2") == "sft-002"
    assert found("f3") is None
    assert found("f3", "running") == found(None, None) == "sft-004"
    assert find_run(tmp_path, "reward") is None


def test_runs_are_ordered_by_number_beyond_999(tmp_path: Path) -> None:
    for number in ("0002", "999", "1000"):
        folder = tmp_path / "runs" / f"sft-{number}"
        folder.mkdir(parents=True)
        write_json_atomic(folder / "manifest.json", {"stage": "sft", "fingerprint": "old", "status": "done"})
    assert begin(tmp_path).name == "sft-1001"


# -- the log


def test_metric_lines_do_not_depend_on_order_or_number_type(tmp_path: Path) -> None:
    one, two = begin(tmp_path, "one"), begin(tmp_path, "two")
    one.metric(3, {"b": 0.1 + 0.2, "a": 1.0, "n": 4, "bad": math.nan, "worse": -math.inf})
    two.metric(3, {"worse": math.inf, "bad": np.float64("nan"), "n": 4, "a": np.float32(1), "b": np.float64(0.1 + 0.2)})
    line = (one.path / "metrics.jsonl").read_text()
    assert line == '{"step": 3, "a": 1.0, "b": 0.30000000000000004, "bad": null, "n": 4, "worse": null}\n'
    assert (two.path / "metrics.jsonl").read_text() == line


def test_an_interrupted_run_writes_the_same_bytes_as_a_straight_one(tmp_path: Path) -> None:
    def train(run: Run, steps: range) -> None:
        for step in steps:
            run.metric(step, {"loss": 1 / (step + 3)})
            run.timing(step, {"forward": 0.1 * step})

    straight = begin(tmp_path / "straight")
    train(straight, range(1, 11))
    train(begin(tmp_path / "cut"), range(1, 8))
    with open(tmp_path / "cut" / "runs" / "sft-001" / "metrics.jsonl", "a") as file:
        file.write('{"step": 8, "lo')  # It was killed in the middle of a line.
    resumed = begin(tmp_path / "cut")
    assert len(resumed.metrics()) == 7
    resumed.rewind(5)  # This is its last checkpoint.
    train(resumed, range(6, 11))
    assert (resumed.path / "metrics.jsonl").read_bytes() == (straight.path / "metrics.jsonl").read_bytes()
    steps = [json.loads(line)["step"] for line in (resumed.path / "timings.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 11))


def test_a_torn_line_that_happens_to_be_whole_json_is_not_joined_to_the_next(tmp_path: Path) -> None:
    run = begin(tmp_path)
    (run.path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}')
    again = begin(tmp_path)
    again.metric(3, {})
    assert [line["step"] for line in again.metrics()] == [1, 2, 3]


def test_a_finished_run_keeps_its_result_and_says_when(tmp_path: Path) -> None:
    run = begin(tmp_path)
    run.finish({"reward": 1.5, "sd": math.nan, "model": Path("runs/x"), "parts": (1, 2)})
    assert (run.status, run.manifest["finished_at"] is not None) == ("done", True)
    assert run.result == {"reward": 1.5, "sd": None, "model": "runs/x", "parts": [1, 2]}


# -- kills and full disks


def test_a_kill_before_the_folder_has_its_number_leaves_no_run(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    begin(tmp_path).finish({})
    (tmp_path / "runs" / f".new-{dead.pid}").mkdir()
    alive = tmp_path / "runs" / f".new-{os.getppid()}"
    alive.mkdir()
    assert [run.name for run in runs(tmp_path)] == ["sft-001"]
    assert begin(tmp_path).name == "sft-002"
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [alive.name, "sft-001", "sft-002"]


def test_a_run_killed_at_any_change_of_a_file_is_taken_up_or_begun_again(tmp_path: Path) -> None:
    """Each child dies before its N-th change of the file system; the parent then runs the same stage to its end."""
    script = """
        import os, sys
        from pathlib import Path
        from prefloop.record import begin_run, find_run, runs

        def run(root):
            begin_run(root, "sft", "f", {}, inputs={}, seed=0).finish({"loss": 1.0})

        def die_at(n):
            def hook(event, arguments):
                nonlocal n
                writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
                if writes or event in ("os.mkdir", "os.rename", "os.remove"):
                    n -= 1
                    if n == 0:
                        os._exit(9)
            sys.addaudithook(hook)

        n, status = 0, 9
        while status == 9:
            n += 1
            root = Path(sys.argv[1]) / str(n)
            root.mkdir()
            child = os.fork()
            if child == 0:
                die_at(n)
                run(root)
                os._exit(0)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            for left in runs(root):
                assert left.status == "running" or left.result == {"loss": 1.0}
            if find_run(root, "sft") is None:
                run(root)
            assert os.listdir(root / "runs") == ["sft-001"], (n, os.listdir(root / "runs"))
            assert find_run(root, "sft").result == {"loss": 1.0}
        assert status == 0
        print(n)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 8  # There are two folders and three files, each written aside and renamed.


def test_two_processes_that_begin_at_once_get_different_numbers(tmp_path: Path) -> None:
    script = "import sys; from pathlib import Path; from prefloop.record import begin_run; " + (
        "print(*(begin_run(Path(sys.argv[1]), 'sft', sys.argv[2] + str(n), {}, inputs={}, seed=0).name "
        "for n in range(10)))"
    )

    def run(name: str) -> list[str]:
        command = [sys.executable, "-c", script, str(tmp_path), name]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    with ThreadPoolExecutor() as pool:
        one, two = pool.map(run, "ab")
    assert sorted([*one, *two]) == [f"sft-{n:03d}" for n in range(1, 21)]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_json_atomic(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json_atomic(path, {"a": object()})
    script = """
        import resource, signal, sys
        from pathlib import Path
        from prefloop.record import write_atomic
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            write_atomic(Path(sys.argv[1]), b"x" * 5000)
        except OSError:
            sys.exit(7)
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(script), str(path)]).returncode == 7
    assert json.loads(path.read_text()) == {"a": 1}
    assert os.listdir(tmp_path) == ["result.json"]


def test_an_atomic_write_keeps_bytes_and_respects_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "weights", b"\0\xff")
    finally:
        os.umask(before)
    assert (tmp_path / "weights").read_bytes() == b"\0\xff"
    assert (tmp_path / "weights").stat().st_mode & 0o777 == 0o640


# -- what made it


def test_versions_are_read_without_importing_torch() -> None:
    script = (
        "import sys; from prefloop.record import versions; v = versions(); print('torch' in sys.modules, v['torch'])"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert said == ["False", str(versions()["torch"])]


def test_the_commit_is_noted_where_there_is_one(tmp_path: Path) -> None:
    assert git_commit(tmp_path / "missing") is None

    def git(*command: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        done = subprocess.run(["git", *identity, *command], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    git("init", "-q")
    (tmp_path / "prefloop.toml").write_text("a")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    git("tag", "-a", "v1", "-m", "v1")
    head = git("rev-parse", "HEAD")
    assert git_commit(tmp_path) == head
    (tmp_path / "prefloop.toml").write_text("b")
    assert git_commit(tmp_path) == f"{head}-dirty"


@pytest.mark.parametrize("content", ["null", "[1]", "{", ""])
def test_a_damaged_result_is_named_with_what_to_do(tmp_path: Path, content: str) -> None:
    run = begin_run(tmp_path, "sft", "f", {}, inputs={}, seed=0)
    (run.path / "result.json").write_text(content)
    with pytest.raises(DataError, match=r"sft-001/result\.json .*move its run folder away"):
        _ = run.result
