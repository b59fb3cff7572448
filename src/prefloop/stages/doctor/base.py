"""Defines the type of every check of `prefloop doctor`, and how a check that breaks becomes one that failed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from prefloop.errors import PrefloopError

Status = Literal["ok", "warn", "fail", "skipped"]


@dataclass(frozen=True)
class Check:
    """Holds one question with its answer. `advice`: what to do, where there is something to do."""

    name: str
    status: Status
    detail: str
    advice: str = ""


def guarded(name: str, look: Callable[[], Check]) -> Check:
    """Return the answer of a check. One that cannot be made counts as failed, and doctor goes on with the others."""
    try:
        return look()
    except PrefloopError as error:
        return Check(name, "fail", str(error))
    except Exception as error:  # noqa: BLE001 -- whatever breaks here is what the doctor was called for
        return Check(name, "fail", f"{type(error).__name__}: {error}", "report this, with what led to it")
