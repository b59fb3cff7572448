"""The hash of a caller's code changes with what it does, and with nothing else."""

from __future__ import annotations

import functools
import linecache
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prefloop.source import source_hash

SOURCE = Path(__file__).resolve().parents[1] / "src"


def defined(text: str, name: str = "f", file: str | None = None) -> Any:
    """Return a function or class from source; without a file it is as at Python's prompt."""
    if file:
        linecache.cache[file] = (len(text), None, text.splitlines(True), file)
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(text, file or "<stdin>", "exec", dont_inherit=True), names)
    return names[name]


def closure(bound: float) -> Callable[[float], float]:
    return lambda x: min(x, bound)


@pytest.mark.parametrize("file", [None, "<cell>"])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("def f(x): return x + 1", "def f(x): return x + 2"),
        ("def f(x, y=1): return x + y", "def f(x, y=2): return x + y"),
        ("class f:\n    def score(self, x): return 1", "class f:\n    def score(self, x): return 2"),
        ("class f:\n    bound = 1", "class f:\n    bound = 2"),
    ],
)
def test_other_code_has_another_hash_and_the_same_code_the_same(file: str | None, before: str, after: str) -> None:
    old = source_hash(defined(before, file=file))
    assert source_hash(defined(after, file=file)) != old
    assert source_hash(defined(before, file=file)) == old


def test_what_a_closure_a_partial_or_an_object_holds_counts() -> None:
    assert source_hash(closure(1.0)) != source_hash(closure(2.0))
    assert source_hash(closure(1.0)) == source_hash(closure(1.0))
    assert source_hash(functools.partial(max, 1)) != source_hash(functools.partial(max, 2))
    assert source_hash(functools.partial(closure, 1)) == source_hash(functools.partial(closure, 1))
    Kind = defined("class f:\n    def __init__(self, a): self.a = a\n    def __call__(self): return self.a")
    assert source_hash(Kind(1)) != source_hash(Kind(2))
    assert source_hash(Kind(1)) == source_hash(Kind(1))
    assert source_hash(Kind(object())) == source_hash(Kind(object())), "an address in memory is no code"


def test_an_identity_stands_for_the_code() -> None:
    one, other = (defined(f"def f(x): return {n}") for n in (1, 2))
    one.identity = other.identity = "version 3"
    assert source_hash(one) == source_hash(other)


def test_a_function_that_holds_itself_ends() -> None:
    maker = defined("def f():\n    def again(n): return n and again(n - 1)\n    return again")
    assert source_hash(maker()) == source_hash(maker())


def test_the_hash_is_the_same_in_every_process() -> None:
    program = (
        "from prefloop.source import source_hash\n"
        "class A:\n    kinds = {'b', 'a', 'c'}\n    def score(self, x): return [len(t) for t in x]\n"
        "def f(x, g=len, *, h=None): return x in {'a', 'b'}, lambda: x\n"
        "print(source_hash(A()), source_hash(f))"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONPATH": str(SOURCE), "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1
