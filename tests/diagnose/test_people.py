"""What a diagnosis says of annotators, and what it advises, on records that were made by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefloop.diagnose.diagnosis import Diagnosis, diagnose
from prefloop.diagnose.records import Annotator, RunRecord

WEIGHTED: Mapping[str, Any] = {"reward": {"annotators": "weighted"}}
HELDOUT = {"accuracy": 0.7, "low": 0.62, "high": 0.78, "pairs": 120, "prompts": 30}


def crowd(*weights: float | None) -> list[Annotator]:
    error = 0.1
    return [Annotator(f"p{n}", 40, w, None if w is None else error) for n, w in enumerate(weights)]


def asked(people: list[Annotator], config: Mapping[str, Any] | None = None) -> Diagnosis:
    return diagnose(RunRecord("reward-001", "reward", config=config or {}, people=people, result={"heldout": HELDOUT}))


def test_people_who_can_be_told_apart_are_weighed_by_the_command_that_is_printed() -> None:
    for bad, cause in ((-1.0, "rankings-flipped"), (0.05, "annotators-careless")):
        (finding,) = asked(crowd(1.0, 1.1, 0.9, bad)).alarms
        assert finding.causes[0].id == cause
        assert finding.action.command == "prefloop reward --annotators weighted"


def test_people_who_are_weighed_already_are_a_note_and_the_same_command_is_not_printed_again() -> None:
    found = asked(crowd(1.0, 1.1, 0.9, -1.0, 0.05), WEIGHTED)
    assert found.findings and not found.alarms
    assert {finding.action.command for finding in found.findings} == {"prefloop agreement"}


def test_people_who_cannot_be_told_apart_are_looked_at_and_not_weighed() -> None:
    alike = [Annotator(f"p{n}", 40, agreement=0.5, pairs=60) for n in range(4)]
    for config in ({}, WEIGHTED):  # weighing has then changed nothing, so that it is no excuse
        (finding,) = asked(alike, config).alarms
        assert finding.action.command == "prefloop agreement"
