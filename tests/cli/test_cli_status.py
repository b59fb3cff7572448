"""`prefloop status` says where a project stands at each point of the loop, and who is at work on it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

from prefloop.config import load_config
from prefloop.store import ProjectLock, Store, put_address

QUICK = ("--set", "align.steps=1", "--set", "align.evaluation.eval_every=1")


def test_status_follows_the_loop_and_writes_nothing(prefloop: Callable, tiny_project: Path) -> None:
    def status() -> dict:
        before = sorted(str(path) for path in tiny_project.rglob("*") if path.suffix not in (".db-wal", ".db-shm"))
        found = prefloop("status", "-C", tiny_project, "--json").json
        after = sorted(str(path) for path in tiny_project.rglob("*") if path.suffix not in (".db-wal", ".db-shm"))
        assert before == after
        return found

    found = status()
    assert found["data"]["demonstrations"] == 40 and found["models"] == [] and found["next"] == "prefloop sft"
    assert prefloop("sample", "-C", tiny_project, "-q").code == 0
    assert prefloop("crowd", "-C", tiny_project, "-q").code == 0
    found = status()
    # fmt: skip
    assert found["rounds"] == [
        {
            "round": 0,
            "lists": 40,
            "ranked": 40,
            "reward_model": False,
            "align_runs": 0,
            "policy": None,
            "evaluated": False,
            "win_rate": None,
        }
    ]
    assert found["data"]["simulated"] == 40 and found["next"] == "prefloop reward"
    assert prefloop("align", "-C", tiny_project, "-q", "--set", "align.reward=length", *QUICK).code == 0
    assert status()["rounds"][0]["align_runs"] == 1
    said = prefloop("status", "-C", tiny_project)
    assert "round 0: 40 lists, 40 ranked, " in said.out and said.out.splitlines()[-1].startswith("next: prefloop ")


def test_status_names_the_process_at_work_and_the_server_and_neither_once_they_are_gone(
    prefloop: Callable, tiny_project: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        with Store.open(load_config(tiny_project / "prefloop.toml").project.store, tiny_project) as store:
            put_address(store, address)
        with ProjectLock(tiny_project):
            running = prefloop("status", "-C", tiny_project, "--json").json["running"]
    assert running["server"] == address and running["work"]["pid"] == os.getpid()
    assert prefloop("status", "-C", tiny_project, "--json").json["running"] == {"work": None, "server": None}
    note = tiny_project / ".prefloop.lock.json"
    note.write_text('{"pid": 999999999, "command": "prefloop align"}')  # The note is of a process that was killed.
    assert "running: nothing" in prefloop("status", "-C", tiny_project).out
