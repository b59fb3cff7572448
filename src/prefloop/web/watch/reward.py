"""What is known of a reward model: is it as sure as it is right, on which pairs is it right, who taught it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prefloop.diagnose.records import Annotator, RunRecord
from prefloop.report.text import number, percent
from prefloop.web.watch.curves import Panel
from prefloop.web.watch.plot import Axis, Line, plot
from prefloop.web.watch.results import finite


@dataclass(frozen=True)
class Part:
    """The accuracy on a part of the held-out pairs."""

    name: str
    accuracy: float
    pairs: int

    @property
    def percent(self) -> str:
        return percent(self.accuracy)


@dataclass(frozen=True)
class Person:
    """An annotator as text; "–" where a figure is not known."""

    name: str
    rankings: int
    weight: str
    agreement: str
    longer: str


@dataclass(frozen=True)
class About:
    """A reward model's own section."""

    calibration: Panel | None
    parts: tuple[Part, ...]
    people: tuple[Person, ...]


def about(run: RunRecord) -> About | None:
    """Return what a run of `reward` says of its model; None for other stages, and where nothing is known yet."""
    if run.stage != "reward":
        return None
    measured = run.result.get("heldout")
    heldout: Mapping[str, Any] = measured if isinstance(measured, Mapping) else {}
    people = tuple(_person(person) for person in sorted(run.people, key=lambda p: (p.weight is None, p.weight or 0.0)))
    made = About(_calibration(heldout), tuple(_parts(heldout)), people)
    return made if made.calibration or made.parts or made.people else None


def _calibration(heldout: Mapping[str, Any]) -> Panel | None:
    found = []
    for row in _rows(heldout.get("calibration")):
        predicted, observed, votes = (finite(row.get(key)) for key in ("predicted", "observed", "votes"))
        if predicted is not None and observed is not None and votes:
            found.append((predicted, observed, int(votes)))
    if not found:
        return None
    names = [f"predicted {percent(p)}, {votes} votes" for p, _, votes in found]
    line = Line("it won", [p for p, _, _ in found], [o for _, o, _ in found], names)
    alt = "Calibration. " + "; ".join(f"predicted {percent(p)}, won {percent(o)} of {n} votes" for p, o, n in found)
    axis = Axis("predicted chance that the higher score wins", [(t / 10, f"{10 * t} %") for t in range(5, 11)])
    ece = finite(heldout.get("ece"))
    meaning = "A point on the dashed line is as sure as it is right; one below it is too sure."
    return Panel(
        "calibration",
        "Is it as sure as it is right?",
        f"error {number(ece)}" if ece is not None else "",
        meaning,
        "on the dashed line; a point below it is too sure",
        plot([line], alt, share=True, x_axis=axis, diagonal=True),
        (),
    )


def _parts(heldout: Mapping[str, Any]) -> Iterator[Part]:
    for row in _rows(heldout.get("by_margin")):
        low, high = finite(row.get("low")), finite(row.get("high"))
        between = f"over {number(low, 1)}" if high is None else f"{number(low, 1)} to {number(high, 1)}"
        yield from _part(f"{between} ranks apart", row.get("accuracy"), row.get("pairs"))
    for key, name in (
        ("longer_won", "people preferred the longer"),
        ("shorter_won", "people preferred the shorter"),
        ("longer_wins", "for comparison: always the longer"),
    ):
        if isinstance(counted := heldout.get(key), Mapping):
            yield from _part(name, counted.get("share"), counted.get("pairs"))


def _part(name: str, accuracy: object, pairs: object) -> Iterator[Part]:
    share, count = finite(accuracy), finite(pairs)
    if share is not None and count:
        yield Part(name, min(1.0, max(0.0, share)), int(count))


def _person(person: Annotator) -> Person:
    weight = number(finite(person.weight))
    if (error := finite(person.weight_se)) is not None and weight != "–":
        weight += f" ± {number(1.96 * error)}"
    return Person(
        str(person.name),
        int(finite(person.rankings) or 0),
        weight,
        percent(finite(person.agreement)),
        percent(finite(person.longer)),
    )


def _rows(value: object) -> list[Mapping[str, Any]]:
    return [row for row in value if isinstance(row, Mapping)] if isinstance(value, list) else []
