"""Starts servers on this machine and stops them: each has a keeper, so that none outlives this process."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from prefloop.engine.rollouts.http import Address, Fault
from prefloop.engine.torchrun import alone
from prefloop.errors import TrainingError

START_S = 900.0  # A large model takes minutes to load.
STOP_S = 20.0
LOOK_S = 0.1
TAIL = 800  # characters of a log that an error shows
_ERROR = re.compile(r"\b\w+(Error|Exception): .{,500}")

Command = Callable[[int, Path], Sequence[str]]  # It gets the port, and the folder of the model.


class Launched:
    """Is a server of our own, which listens on this machine only."""

    def __init__(self, command: Command, log: Path, env: Mapping[str, str]):
        self._command, self._log, self._env = command, log, env
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""
        self._began = 0  # where the log of this start begins

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, folder: Path) -> None:
        """Start it anew, at a port of its own. Whoever needs it waits with `wait`."""
        self.stop()
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._log.parent.mkdir(parents=True, exist_ok=True)
        keeper = [sys.executable, "-m", "prefloop.engine.rollouts.keeper", *self._command(port, folder)]
        with self._log.open("ab") as log:
            self._began = log.tell()
            self._process = subprocess.Popen(
                keeper,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**alone(), **self._env},
            )

    def wait(self, server: Address) -> None:
        """Return once it answers. Raises TrainingError, with the end of its log, where it ends before that."""
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            with suppress(Fault):
                if server.get("/health", timeout=5.0).get("status", "ok") == "ok":
                    return
            if not self.alive:
                first, end = self._said()
                raise TrainingError(
                    f"the rollout server that was started here ended at once{first}. The end of {self._log}:\n{end}"
                )
            time.sleep(LOOK_S)
        raise Fault(f"it was started, but did not answer within {START_S:g} s; its log is {self._log}")

    def stop(self) -> None:
        """Close the keeper's pipe, and wait for it to end its server."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _said(self) -> tuple[str, str]:
        """Return the first error since the last start, which is often the cause of those that follow, and the end."""
        try:
            with self._log.open(errors="replace") as log:
                log.seek(self._began)
                text = log.read()
        except OSError as error:
            return "", str(error)
        found = _ERROR.search(text)
        return f": {found.group()}" if found else "", text[-TAIL:].strip() or "(it is empty)"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
