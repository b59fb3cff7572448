"""Plays a person at the ranking screen, without the screen: a server process, and the calls of the screen's script.

It is for tests that kill the server and for benchmarks that load it, and uses the standard library only, so that fifty
of them fit.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parents[1] / "src"
IDLE_S = 20.0  # The server closes connections after 30 s without a call.
TASK = re.compile(r'data-lease="([^"]+)".*?data-cards="(\d+)"', re.DOTALL)


class Gone(Exception):
    """Raised where the server did not answer; nobody knows whether it heard."""


class Away(Gone):
    """Raised where the server said that it cannot reach its store, and when to come again."""


@dataclass(frozen=True)
class Task:
    """Holds what was handed out: its lease, and how many cards."""

    lease: str
    cards: int


class RankingClient:
    """Calls the server as one person.

    `cookie`: "name=token" of a signed-in person. Raises Gone; any other answer than 200 is an AssertionError.
    """

    def __init__(self, port: int, cookie: str) -> None:
        self._port = port
        self._headers = {"Cookie": cookie, "Sec-Fetch-Site": "same-origin", "Content-Type": "application/json"}
        self._connection: http.client.HTTPConnection | None = None
        self._used = 0.0

    def next(self, after: str | None = None) -> Task | None:
        """Return the item to rank, or the one after it; None where there is none."""
        found = TASK.search(self.call("POST", "/rank/next", {"after": after}, accept="text/html"))
        return Task(found[1], int(found[2])) if found else None

    def draft(self, lease: str, state: dict[str, Any]) -> None:
        self.call("POST", f"/rank/{lease}/draft", {"state": state})

    def submit(self, lease: str, uuid: str, tiers: Sequence[Sequence[int]]) -> None:
        """Submit, and return when the server has acknowledged the answer."""
        self.call("POST", f"/rank/{lease}/submit", {"uuid": uuid, "answer": {"tiers": tiers, "duration_s": 5.0}})

    def call(self, method: str, path: str, body: object = None, accept: str = "application/json") -> str:
        """Return the body of the answer."""
        if self._connection is None or time.monotonic() - self._used > IDLE_S:
            self.close()
            self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        sent = None if body is None else json.dumps(body)
        try:
            self._connection.request(method, path, sent, {**self._headers, "Accept": accept})
            answer = self._connection.getresponse()
            text = answer.read().decode()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Gone(str(error)) from error
        self._used = time.monotonic()
        if answer.status == 503:
            assert answer.headers["Retry-After"] and answer.headers["Content-Security-Policy"]
            raise Away(text)
        assert answer.status == 200, f"{method} {path}: {answer.status} {text[:300]}"
        return text

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class AnnotateServer:
    """Runs `prefloop annotate` as a process of its own, on one port for as often as it is started."""

    def __init__(self, root: Path, workers: int = 1) -> None:
        self._command = [sys.executable, "-m", "prefloop.cli.main", "annotate", "--json", "-C", str(root)]
        self._command += ["--workers", str(workers)]
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start, and return when it takes connections."""
        environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
        command = [*self._command, "--port", str(self.port)]
        self._process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, start_new_session=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the server did not start"
        self.port = int(json.loads(line)["address"].rpartition(":")[2])
        deadline = time.monotonic() + 60
        while not self._answers():
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
            connection.request("GET", "/login")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def kill(self) -> None:
        """Kill it with -9, and its worker processes too."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """Stop it as Ctrl-C does; return the exit status."""
        return self._end(signal.SIGINT)

    def _end(self, number: int) -> int:
        if self._process is None:
            return 0
        if number == signal.SIGKILL:
            os.killpg(self._process.pid, number)
        else:
            self._process.send_signal(number)
        code = self._process.wait(60)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process = None
        return code
