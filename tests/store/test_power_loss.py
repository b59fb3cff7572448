"""Power is lost at any moment while items are added: what was acknowledged is in the file, and the file is whole.

A real process adds items; a library that is loaded before libc logs each write, truncation, sync and unlink it asks for
(`io_log.c`). Afterwards the disk is made again as it may have been at any point of that log: what was synced is there,
and of what was not synced nothing, everything, or any part is. This is the method of ALICE (Pillai et al., OSDI 2014).
"""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from test_faults import item

from prefloop.store import Store

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the log is made by LD_PRELOAD")

URL = "sqlite:///store.db"
ITEMS = 24
STATES = 90
SECTOR = 512

# "acks" lies beside the store, so the log says what was acknowledged before what. Small checkpoints make many of them.
WRITER = """
import os, sys
from pathlib import Path
from prefloop.store import Store
sys.path.insert(0, sys.argv[2])
from test_faults import item
root = Path(sys.argv[1])
with Store.open("sqlite:///store.db", root) as store:
    connection = store.database._writer.raw_connection()
    connection.execute("PRAGMA wal_autocheckpoint = 60")
    if len(sys.argv) > 4:
        connection.execute(f"PRAGMA synchronous = {sys.argv[4]}")
    connection.close()
    acks = os.open(root / "acks", os.O_CREAT | os.O_WRONLY)
    for n in range(int(sys.argv[3])):
        store.add([item(n, size=400)])
        os.write(acks, bytes([n]))
"""


@dataclass(frozen=True)
class Call:
    kind: str
    name: str
    offset: int
    data: bytes


@dataclass
class Disk:
    """Holds what has reached the platter, and what waits in the cache."""

    files: dict[str, bytearray]
    waiting: dict[str, list[Call]] = field(default_factory=dict)

    def take(self, call: Call) -> None:
        if call.kind == "s":
            self._write(self.files, self.waiting.pop(call.name, []))
            self.files.setdefault(call.name, bytearray())
        else:
            self.waiting.setdefault(call.name, []).append(call)

    def after_power_loss(self, draw: random.Random) -> dict[str, bytearray]:
        """Return synced files, and of each file's waiting calls none, all, or any of them, the last one perhaps in
        part.
        """
        found = {name: bytearray(content) for name, content in self.files.items()}
        for name, calls in self.waiting.items():
            if draw.random() < 0.5 and name not in found:
                continue  # The making of this file was not synced.
            kept = calls if draw.random() < 0.3 else [c for c in calls if draw.random() < draw.choice((0.0, 0.5))]
            if kept and kept[-1].kind == "w" and draw.random() < 0.5:
                last = kept[-1]
                torn = last.data[: SECTOR * draw.randrange(1 + len(last.data) // SECTOR)]
                kept = [*kept[:-1], Call("w", name, last.offset, torn)]
            self._write(found, kept)
        return found

    @staticmethod
    def _write(files: dict[str, bytearray], calls: list[Call]) -> None:
        for call in calls:
            content = files.setdefault(call.name, bytearray())
            if call.kind == "u":
                del files[call.name]
            elif call.kind == "t":
                del content[call.offset :]
                content.extend(bytes(call.offset - len(content)))
            else:
                content.extend(bytes(max(0, call.offset - len(content))))
                content[call.offset : call.offset + len(call.data)] = call.data


@pytest.fixture(scope="module")
def logger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler here: install gcc")
    library = tmp_path_factory.mktemp("logger") / "io_log.so"
    source = Path(__file__).with_name("io_log.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-w", str(source), "-o", str(library), "-ldl"], check=True)
    return library


def logged(logger: Path, root: Path, *more: str) -> tuple[dict[str, bytearray], list[Call]]:
    """Return the files before, and what a process that adds items asked for."""
    Store.open(URL, root).close()
    before = {"store.db": bytearray((root / "store.db").read_bytes())}
    log = root.with_name(root.name + ".log")
    environment = {**os.environ, "LD_PRELOAD": str(logger), "IO_LOG": str(log), "IO_LOG_ROOT": f"{root}/"}
    command = [sys.executable, "-c", WRITER, str(root), str(Path(__file__).parent), str(ITEMS), *more]
    subprocess.run(command, env=environment, check=True, timeout=120)
    raw, calls, at = log.read_bytes(), list[Call](), 0
    while at < len(raw):
        path_length, offset, length = struct.unpack_from("<QQQ", raw, at + 1)
        name = Path(raw[at + 25 : at + 25 + path_length].decode()).name
        end = at + 25 + path_length + length
        calls.append(Call(chr(raw[at]), name, offset, raw[end - length : end]))
        at = end
    return before, [c for c in calls if not c.name.endswith(("-shm", "-writer"))]  # Shared memory is not on the disk.


def lost_or_broken(before: dict[str, bytearray], calls: list[Call], folder: Path) -> list[str]:
    """Return what is wrong after power loss at many points of the log; each acknowledged item must be there, whole."""
    draw = random.Random(0)
    at_calls = sorted(draw.sample(range(len(calls) + 1), min(STATES, len(calls))))
    disk, acknowledged, done, found = Disk(before), 0, 0, []
    for at in at_calls:
        for call in calls[done:at]:
            if call.name == "acks":
                acknowledged += len(call.data)
            else:
                disk.take(call)
        done = at
        root = folder / str(at)
        root.mkdir()
        for name, content in disk.after_power_loss(draw).items():
            (root / name).write_bytes(content)
        with Store.open(URL, root, create=False) as store:
            items, problems = list(store.items()), store.check()
        shutil.rmtree(root)
        found += [f"at call {at}: {problem}" for problem in problems]
        if items != [item(n, size=400) for n in range(len(items))]:
            found.append(f"at call {at}: items are not whole")
        if not acknowledged <= len(items) <= acknowledged + 1:
            found.append(f"at call {at}: {acknowledged} were acknowledged, {len(items)} are there")
    assert acknowledged > ITEMS // 2, "the log was followed to its end"
    return found


def test_power_loss_at_any_moment_loses_nothing_that_was_acknowledged(logger: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    before, calls = logged(logger, root)
    kinds = {(call.kind, call.name) for call in calls}
    assert {("s", "store.db-wal"), ("s", "store.db"), ("w", "store.db")} <= kinds, "commits and checkpoints were logged"
    assert lost_or_broken(before, calls, tmp_path) == []


def test_this_test_sees_commits_that_were_not_synced(logger: Path, tmp_path: Path) -> None:
    """This is the control: a store that does not sync its commits does lose acknowledged items."""
    root = tmp_path / "root"
    root.mkdir()
    before, calls = logged(logger, root, "NORMAL")
    assert any("were acknowledged" in problem for problem in lost_or_broken(before, calls, tmp_path))
