"""Several processes on one SQLite file write one after the other, and no checkpoint races a commit."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from prefloop.errors import BusyError, StoreError
from prefloop.store import Store
from prefloop.store.connections import database
from prefloop.store.connections.turns import WriteTurns
from prefloop.types import Prompt

pytest.importorskip("fcntl", reason="this system has no flock: SQLite's own locks must do")

URL = "sqlite:///store.db"

HOLDER = """
import sys
from pathlib import Path
from prefloop.store.connections.turns import WriteTurns
with WriteTurns(Path(sys.argv[1])).mine(5):
    print("mine", flush=True)
    sys.stdin.read()
"""

# Each writer opens and closes the store again and again, so that the lock's file comes and goes too. Whoever finds the
# note of another writer has broken into its turn: from before BEGIN until after COMMIT the note is there.
WRITERS = """
import os, sys
from contextlib import contextmanager
from pathlib import Path
from prefloop.store import Store
from prefloop.store.connections.turns import WriteTurns
from prefloop.types import Prompt

root, name = Path(sys.argv[1]), sys.argv[2]
real = WriteTurns.mine

@contextmanager
def watched(self, timeout_s):
    with real(self, timeout_s):
        note = os.open(root / "turn", os.O_CREAT | os.O_EXCL)  # fails where another has its turn
        try:
            yield
        finally:
            os.close(note)
            os.unlink(root / "turn")

WriteTurns.mine = watched
for n in range(12):
    with Store.open("sqlite:///store.db", root) as store:
        for m in range(5):
            store.add([Prompt(f"{name} {n} {m}")])
"""


def hold(root: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLDER, str(root / "store.db")]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "mine\n"
    return holder


def test_a_process_waits_for_the_turn_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store.open(URL, tmp_path) as store, hold(tmp_path) as holder:
        monkeypatch.setattr(store.database, "_patience_s", 0.1)
        with pytest.raises(BusyError, match="another process has been writing"):
            store.add([Prompt("too early")])
        monkeypatch.undo()
        assert store.counts()["prompts"] == 0, "readers do not wait"
        holder.communicate("")
        store.add([Prompt("now")])
        assert store.counts()["prompts"] == 1


def test_a_turn_ends_with_its_process(tmp_path: Path) -> None:
    with Store.open(URL, tmp_path) as store, hold(tmp_path) as holder:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        begun = time.monotonic()
        store.add([Prompt("now")])
        assert time.monotonic() - begun < database.BUSY_TIMEOUT_S / 2


def test_no_two_processes_have_their_turn_at_once_though_they_come_and_go(tmp_path: Path) -> None:
    Store.open(URL, tmp_path).close()
    command = [sys.executable, "-c", WRITERS, str(tmp_path)]
    writers = [subprocess.Popen([*command, str(n)], stderr=subprocess.PIPE, text=True) for n in range(3)]
    assert [writer.communicate(timeout=120)[1] for writer in writers] == [""] * 3
    with Store.open(URL, tmp_path) as store:
        assert store.counts()["prompts"] == 3 * 12 * 5
    assert [path.name for path in tmp_path.iterdir()] == ["store.db"]


def test_two_stores_of_one_process_take_turns_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store.open(URL, tmp_path) as one, Store.open(URL, tmp_path) as other:
        one.add([Prompt("one")])
        other.add([Prompt("other")])
        monkeypatch.setattr(other.database, "_patience_s", 0.1)
        with one.database.write(), pytest.raises(BusyError):
            other.add([Prompt("in between")])
        assert one.counts()["prompts"] == 2


def test_where_the_lock_cannot_be_made_it_says_so(tmp_path: Path) -> None:
    with (
        pytest.raises(StoreError, match="cannot lock .*/nowhere/x.db-writer"),
        WriteTurns(tmp_path / "nowhere" / "x.db").mine(1),
    ):
        pass
