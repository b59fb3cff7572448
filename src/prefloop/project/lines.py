"""Shows how far a stage is where there is no terminal, as in a log file: one plain line a minute."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Self

from tqdm import tqdm

EVERY_S = 60.0  # A line is written so often.


class Lines:
    """Stands where a tqdm bar does. A thread writes, so that a step of many minutes gives signs of life, too.

    total: None where it is not known
    start: what an earlier process did, which says nothing about the rate
    """

    disable = True  # A bar says this of itself where nobody sees it.

    def __init__(self, say: Callable[[str], None], total: int | None, label: str, start: int = 0):
        self.say, self.total, self.label, self.start = say, total, label, start
        self.n = start
        self.postfix = ""
        self._over = threading.Event()
        self._began = time.monotonic()
        self._writer = threading.Thread(target=self._write, name="progress", daemon=True)

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._writer.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._writer.join()

    def update(self, n: int = 1) -> None:
        self.n += n

    def set_postfix(self, **values: object) -> None:
        self.postfix = "  ".join(f"{name} {value}" for name, value in values.items())

    def set_postfix_str(self, text: str) -> None:
        self.postfix = text

    def refresh(self) -> None:
        """Do nothing: lines are not drawn again as a bar is."""

    def _write(self) -> None:
        while not self._over.wait(EVERY_S):
            self.say(self.line(time.monotonic() - self._began))

    def line(self, seconds: float) -> str:
        """Return "align (ppo): 40 of 600, 9.3 s each, 1:26:48 left  (reward 0.312  kl 2.114)"."""
        done = self.n - self.start
        far = f"{self.label}: {self.n}" + (f" of {self.total}" if self.total is not None else "")
        parts = [far, f"after {_clock(seconds)}"]
        if done > 0:
            each = seconds / done
            parts[1] = f"{each:.1f} s each" if each >= 1 else f"{1 / each:.1f} a second"
            if self.total is not None:
                parts.append(f"{_clock(each * max(0, self.total - self.n))} left")
        return ", ".join(parts) + (f"  ({self.postfix})" if self.postfix else "")


def _clock(seconds: float) -> str:
    return str(tqdm.format_interval(seconds))
