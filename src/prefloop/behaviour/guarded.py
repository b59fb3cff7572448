"""Runs what users bring, functions and patterns, in a process of its own with a time limit for each answer."""

from __future__ import annotations

import json
import math
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

from prefloop.behaviour.registry import Failed, Pair, Value
from prefloop.errors import ConfigError

GIVES_UP = 3  # After so many answers on which it never returns, the others are not tried.
LOADING = 60.0  # seconds that loading a user's file may take


@dataclass(frozen=True)
class Guarded:
    """A function of (prompt, answer) in another process. asked: for `worker.loaded`. limit: seconds an answer."""

    asked: Mapping[str, Any]
    limit: float

    def attributes(self) -> Mapping[str, Any]:
        """What the function says of itself. Raises ConfigError where it cannot be loaded."""
        with _Process(self.asked) as process:
            return process.ready

    def measure(self, pairs: Sequence[Pair]) -> list[Value]:
        """One value an answer. A failure is a value too."""
        values: list[Value] = []
        process, lost = _Process(self.asked), 0
        try:
            for pair in pairs:
                if lost == GIVES_UP:
                    values.append(Failed(f"not tried, since it had not returned {GIVES_UP} times"))
                    continue
                value = process.ask(pair, self.limit)
                values.append(value)
                if process.gone:
                    lost += 1
                    process.close()
                    process = _Process(self.asked) if lost < GIVES_UP else process
        finally:
            process.close()
        return values


class _Process:
    """One process that has loaded the function. gone: it was ended, or ended itself."""

    def __init__(self, asked: Mapping[str, Any]):
        self.gone = False
        path = os.pathsep.join(p for p in sys.path if p)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "prefloop.behaviour.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            text=True,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C is for the one who waits.
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        found = self._exchange(asked, LOADING)
        if found is None or "ready" not in found:
            self.close()
            why = (
                found["refused"]
                if found
                else f"its file did not finish loading in {LOADING:g} seconds, or ended Python"
            )
            raise ConfigError(why if found else f"check {asked.get('source', 'of patterns')}: {why}")
        self.ready: Mapping[str, Any] = found["ready"]

    def ask(self, pair: Pair, limit: float) -> Value:
        found = self._exchange({"prompt": pair.prompt, "answer": pair.answer}, limit)
        if found is None:
            self.gone = True
            code = self._process.poll()
            return Failed(
                f"it did not return within {limit:g} seconds" if code is None else f"it ended Python ({code})"
            )
        if "failed" in found:
            return Failed(found["failed"])
        value: float | None = found["value"]
        return Failed(f"it returned {value}") if value is not None and not math.isfinite(value) else value

    def _exchange(self, asked: Mapping[str, Any], limit: float) -> dict[str, Any] | None:
        """Send a line and return the answer; None where none comes."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(dict(asked)) + "\n")
            self._process.stdin.flush()
            line = self._lines.get(timeout=limit)
        except queue.Empty:
            return None
        except OSError:
            line = ""
        if not line:
            self._process.wait()
        return json.loads(line) if line else None

    def _read(self) -> None:
        assert self._process.stdout is not None
        while line := self._process.stdout.readline():
            self._lines.put(line)
        self._lines.put("")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(OSError):  # There may be a line that the process no longer read.
                pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
