"""Knows about devices and processes, alone. `make` is the one way in; `base.Engine` says what it gives.

Nothing is loaded before it is asked for, so that the command line starts without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefloop.engine.base import Engine as Engine
    from prefloop.engine.base import Training as Training
    from prefloop.engine.factory import make as make

_WHERE = {"Engine": "base", "Training": "base", "make": "factory"}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
