"""Imports libraries without what their import would ask the Hub for."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prefloop.errors import ConfigError


@contextmanager
def without_hub_kernels() -> Iterator[None]:
    """Let bitsandbytes be imported inside this block, or peft, which imports it where it is installed.

    On processors that compute in bfloat16 it would download a kernel for matrices of 4 bits by the package `kernels`,
    or warn that this package is missing. Nothing here multiplies by such matrices: `four_bit` makes plain ones of them.
    """
    modules: dict[str, Any] = sys.modules  # type: ignore[assignment]
    log, held = logging.getLogger("bitsandbytes.backends.cpu.ops"), modules.get("kernels")
    level = log.level
    log.setLevel(logging.ERROR)
    modules["kernels"] = None  # Python then says that there is no such module.
    try:
        yield
    finally:
        log.setLevel(level)
        modules.pop("kernels", None)
        if held is not None:
            modules["kernels"] = held


def needs_bitsandbytes(asked: str) -> Any:
    """Return the library. Raises ConfigError that names the setting and the extra where it is not installed."""
    try:
        with without_hub_kernels():
            import bitsandbytes
    except ImportError as error:
        raise ConfigError(f'{asked} needs the package bitsandbytes: pip install "prefloop[bitsandbytes]"') from error
    return bitsandbytes
