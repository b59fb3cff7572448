"""Values as TOML writes them. (Python reads TOML, but does not write it.)"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from typing import Any


def toml(value: Any) -> str:
    """A value on one line. None has no TOML: it is shown as (none)."""
    if value is None:
        return "(none)"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{json.dumps(str(k))} = {toml(v)}' for k, v in value.items())}}}"
    return repr(value)


def default_of(text: str) -> Any:
    """The value behind a default as `config.describe` gives it."""
    return ast.literal_eval(text)
