"""Measures where the time goes. Code names its parts by `span`, and two measurements listen to the same spans.

`profiling` takes a stage apart: each span has the time that passes inside it but not inside another one. `timed` has
the outermost spans of one step. Where nobody listens, a span costs nothing that could be measured.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch

OTHER = "other"
TRACED = 2  # So many steps are traced, after two that warm up.


class Profile:
    """Holds seconds and calls by span, and a trace of a few steps (chrome://tracing, perfetto.dev)."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self._open = [OTHER]
        self._since = time.perf_counter()
        on = [torch.profiler.ProfilerActivity.CPU]
        if torch.cuda.is_available():
            on.append(torch.profiler.ProfilerActivity.CUDA)
        few = torch.profiler.schedule(wait=1, warmup=1, active=TRACED, repeat=1)
        self.trace = torch.profiler.profile(activities=on, schedule=few, on_trace_ready=self._keep)
        self.traced: Any = None

    def _keep(self, trace: Any) -> None:
        self.traced = trace

    def _lap(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.seconds[self._open[-1]] += now - self._since  # type: ignore[assignment]
        self._since = now

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        self._lap()
        self._open.append(name)
        self.calls[name] += 1
        try:
            with torch.profiler.record_function(name):
                yield
        finally:
            self._lap()
            self._open.pop()

    def close(self) -> None:
        self._lap()

    def rows(self) -> list[dict[str, Any]]:
        """Return the spans, largest first."""
        total = sum(self.seconds.values()) or 1.0
        return [
            {"what": name, "seconds": round(s, 3), "share": round(s / total, 4), "calls": self.calls[name]}
            for name, s in self.seconds.most_common()
        ]

    def table(self) -> str:
        lines = [f"{'':18}{'seconds':>9}{'share':>8}{'calls':>8}{'ms a call':>11}"]
        for row in self.rows():
            each = f"{1000 * row['seconds'] / row['calls']:.1f}" if row["calls"] else ""
            calls = row["calls"] or ""
            lines.append(f"{row['what']:18}{row['seconds']:>9.2f}{row['share']:>8.1%}{calls:>8}{each:>11}")
        return "\n".join(lines)

    def write(self, folder: Path) -> list[str]:
        """Return what was written: profile.json, and trace.json where there were enough steps to trace."""
        (folder / "profile.json").write_text(json.dumps(self.rows(), indent=1) + "\n")
        if self.traced is None:
            return ["profile.json"]
        self.traced.export_chrome_trace(str(folder / "trace.json"))
        return ["profile.json", "trace.json (for ui.perfetto.dev)"]


_active: ContextVar[Profile | None] = ContextVar("profile", default=None)


@contextmanager
def profiling() -> Iterator[Profile]:
    """Time the spans inside this block."""
    profile = Profile()
    token = _active.set(profile)
    try:
        with profile.trace:
            yield profile
    finally:
        profile.close()
        _active.reset(token)


_timed: ContextVar[Counter[str] | None] = ContextVar("timed", default=None)


@contextmanager
def timed() -> Iterator[Counter[str]]:
    """Measure the seconds of the outermost spans inside this block, by name; they are there when it has ended."""
    seconds: Counter[str] = Counter()
    token = _timed.set(seconds)
    try:
        yield seconds
    finally:
        _timed.reset(token)


@contextmanager
def span(name: str) -> Iterator[None]:
    """Count what is done inside for `name`, in the profile and in the timings of a step."""
    profile, seconds = _active.get(), _timed.get()
    if profile is None and seconds is None:
        yield
        return
    token, began = _timed.set(None), time.perf_counter()  # Spans inside this one are a part of it.
    try:
        with nullcontext() if profile is None else profile.span(name):
            yield
    finally:
        _timed.reset(token)
        if seconds is not None:
            seconds[name] += time.perf_counter() - began  # type: ignore[assignment]


def next_step() -> None:
    """Note that a step of training ends."""
    if profile := _active.get():
        profile.trace.step()
