"""`prefloop run` waits for people as a process, beside another process in which they rank."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from prefloop.config import Annotate
from prefloop.labels.answer import Answer
from prefloop.store import People, Queue, Store
from prefloop.types import Completion, Item, Prompt

SETTINGS = '[run]\nstages = ["annotate"]\n[annotate]\noverlap_share = 0\n'


@pytest.fixture
def waiting_project(tmp_path: Path) -> Path:
    root = tmp_path / "p"
    root.mkdir()
    (root / "prefloop.toml").write_text(SETTINGS)
    with Store.open("sqlite:///prefloop.db", root) as store:
        made = [tuple(Completion(f"i{n}:c{j}", f"answer {j} to {n}") for j in range(3)) for n in range(2)]
        store.add([Item(f"i{n}", Prompt(f"question {n}"), made[n], source="sample") for n in range(2)])
    return root


def waiting(root: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    """Return a run that has said that it waits."""
    process = subprocess.Popen(
        [sys.executable, "-m", "prefloop.cli.main", "run", "--json", "-C", str(root)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A job may ignore the signal.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
    )
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if "Ctrl-C stops it" in line:
            break
    assert "waits for people" in said and f"prefloop annotate -C {root}" in said, said
    return process


@pytest.mark.slow
def test_run_waits_is_stopped_goes_on_and_ends_when_people_have_ranked(
    waiting_project: Path, environment: dict[str, str]
) -> None:
    process = waiting(waiting_project, environment)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err
    assert json.loads(out)["error"]["type"] == "Interrupted"

    process = waiting(waiting_project, environment)
    with Store.open("sqlite:///prefloop.db", waiting_project) as store:
        people = People(store)
        person = people.accept(people.owner_link() or "", "ann", "hash").id
        queue = Queue(store, Annotate(overlap_share=0))
        for done in range(2):
            assert process.poll() is None, f"it went on after {done} of 2 rankings"
            shown = queue.next(person)
            assert shown is not None
            queue.submit(person, shown.lease, str(uuid.uuid4()), Answer(tiers=((1,), (0, 2))))
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    (stage,) = json.loads(out)["stages"]
    assert (stage["stage"], stage["rankings"], stage["wanted"], stage["skipped"]) == ("annotate", 2, 2, False)
