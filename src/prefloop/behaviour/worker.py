"""The process in which a user's check runs, so that one that never returns can be ended: `python -m` this module.

It reads JSON lines: first what to load, then one answer a line. It writes a JSON line for each. What the user's code
prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from prefloop.errors import PrefloopError
from prefloop.user_functions import load_function

Function = Callable[[str, str], Any]


def loaded(asked: Mapping[str, Any]) -> Function:
    """The function of {"source", "root"}, or of {"patterns", "required"}."""
    if "patterns" in asked:
        patterns = [re.compile(text) for text in asked["patterns"]]
        if asked["required"]:
            return lambda prompt, answer: sum(p.search(answer) is not None for p in patterns) / len(patterns)
        return lambda prompt, answer: any(p.search(answer) for p in patterns)
    return load_function(asked["source"], Path(asked["root"]), "check")[0]


def said(function: Function, prompt: str, answer: str) -> dict[str, Any]:
    """What the function says of one answer, as JSON values."""
    try:
        value = function(prompt, answer)
        if value is not None and not hasattr(value, "__float__"):
            return {"failed": f"it returned {value!r:.80}, which is no number"}
        return {"value": None if value is None else float(value)}
    except Exception as error:  # noqa: BLE001 -- it is a program of somebody else
        return {"failed": f"{type(error).__name__}: {error}"[:300]}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def write(made: Mapping[str, Any]) -> None:
        answers.write(json.dumps(made) + "\n")
        answers.flush()

    try:
        function = loaded(json.loads(sys.stdin.readline()))
    except PrefloopError as error:
        write({"refused": str(error)})
        return
    write({"ready": {name: getattr(function, name, None) for name in ("unit", "worse")}})
    for line in sys.stdin:
        asked = json.loads(line)
        write(said(function, asked["prompt"], asked["answer"]))


if __name__ == "__main__":
    main()
