"""Finds a user's own function that a setting names as "file.py:function"."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefloop.errors import ConfigError


def file_of(spec: str, root: Path, what: str) -> tuple[Path, str]:
    """Return the file and the name in it of "file.py:function", which is relative to a folder or else to this one.

    what: what the function is, for messages.  Raises ConfigError where there is no such file.
    """
    file, name = spec.rsplit(":", 1)
    path = next((p for p in (root / file, Path(file)) if p.is_file()), None)
    if path is None:
        raise ConfigError(f"{what} {spec}: {file} is neither in {root} nor in {Path.cwd()}")
    return path, name


def load_function(spec: str, root: Path, what: str) -> tuple[Callable[..., Any], Path]:
    """Return the function that "file.py:function" names, and its file. Raises ConfigError."""
    path, name = file_of(spec, root, what)
    module_spec = importlib.util.spec_from_file_location(f"prefloop_user_{path.stem}", path)
    assert module_spec is not None and module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(f"{what} {spec}: {path} could not be run: {type(error).__name__}: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise ConfigError(f"{what} {spec}: {path} has no function {name}")
    return function, path
