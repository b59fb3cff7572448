"""Finds the final answer in a text, which majority voting counts: by a regular expression or a function of the user."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from prefloop.errors import ConfigError, DataError
from prefloop.types import Prompt, digest
from prefloop.user_functions import load_function

_FUNCTION = re.compile(r"[^:]+\.py:\w+")


@dataclass(frozen=True)
class FinalAnswer:
    """Finds final answers. identity: what decides which; it changes with the code of a function."""

    spec: str
    identity: str
    find: Callable[[Prompt, str], str | None]


def final_answer(spec: str, root: Path) -> FinalAnswer:
    """Return what a setting means: "file.py:function" of (prompt, text), or a regular expression.

    Of several matches in a text the last one counts, and of a match its first group, or all of it where there is no
    group. A function returns the answer, or None where there is none. Raises ConfigError.
    """
    if _FUNCTION.fullmatch(spec):
        function, path = load_function(spec, root, "final answer")

        def ask(prompt: Prompt, text: str) -> str | None:
            try:
                found = function(prompt.text, text)
            except Exception as error:
                why = f"{type(error).__name__}: {error}"
                raise DataError(f"{spec} failed on the answer {text[:80]!r}: {why}") from error
            return None if found is None else str(found)

        return FinalAnswer(spec, digest(spec, path.read_text(encoding="utf-8")), ask)
    try:
        pattern = re.compile(spec)
    except re.error as error:
        raise ConfigError(f"majority = {spec!r} is no regular expression: {error}") from error

    def search(prompt: Prompt, text: str) -> str | None:
        matches = list(pattern.finditer(text))
        if not matches:
            return None
        last = matches[-1]
        groups = [group for group in last.groups() if group is not None]
        return (groups[0] if groups else last[0]).strip() or None

    return FinalAnswer(spec, spec, search)
