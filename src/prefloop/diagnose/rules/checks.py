"""Invariants of the run's own models, tried before its first step."""

from __future__ import annotations

from collections.abc import Callable

from prefloop.diagnose.finding import Expected, Severity
from prefloop.diagnose.records import RunRecord
from prefloop.diagnose.registry import Look, Seen, rule


def _tried(id: str, broke: str, meaning: str) -> Callable[[Look], Look]:
    """A rule on one of the checks; its function says which, by the name that `prefloop doctor` prints."""
    return rule(
        id,
        kind="invariant",
        severity="error",
        expected=Expected("holds", "-", "tried on the run's own models", "before the first step", "prefloop doctor"),
        broke=broke,
        meaning=meaning,
        cannot_tell="It is tried on a few prompts, not on all.",
    )


def _failed(run: RunRecord, name: str) -> Seen | None:
    for check in run.checks:
        if check.get("name") == name and check.get("status") in ("fail", "warn"):
            severity: Severity = "error" if check["status"] == "fail" else "warning"
            return Seen(str(check.get("detail")), 0, signal=name, severity=severity)
    return None


@_tried(
    "check-reward-padding",
    "A reward model gives a text one score, alone or in a batch.",
    "The reward depends on the other answers of the batch.",
)
def reward_padding(run: RunRecord) -> Seen | None:
    return _failed(run, "reward padding")


@_tried(
    "check-prompts-apart",
    "Different prompts are different tokens to the policy.",
    "The policy cannot answer what it does not read: its template leaves the question out, or cuts it off.",
)
def prompts_apart(run: RunRecord) -> Seen | None:
    return _failed(run, "prompts apart")


@_tried(
    "check-reward-template",
    "Policy and reward model read a prompt through the same chat template.",
    "The reward model reads text in a form that it was never trained on.",
)
def reward_template(run: RunRecord) -> Seen | None:
    return _failed(run, "reward template")


@_tried(
    "check-reward-order",
    "An answer has the same reward whenever it is asked about, and wherever it stands in a batch.",
    "Rewards reach other answers than those that earned them, or change from one asking to the next.",
)
def reward_order(run: RunRecord) -> Seen | None:
    return _failed(run, "reward order")
