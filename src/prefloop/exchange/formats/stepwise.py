"""Reads answers whose every step is labelled right or wrong (stepwise supervision of TRL and axolotl).

The steps become one completion, which is acceptable if no step is wrong. Each step's label is kept as a rating of the
completion ("step 1", "step 2", ...), and the steps are kept too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prefloop.exchange import fields
from prefloop.exchange.base import BadRow, FieldLook, Format, Record, quoted
from prefloop.exchange.build import ACCEPTABLE, IMPORTED, build_item, draft
from prefloop.exchange.formats.kto import judged
from prefloop.types import Completion, Item, Prompt

RIGHT = 0.5  # A label may be a share of rollouts that came out right; from here on it counts as right.


def fits(record: Record) -> bool:
    return isinstance(record.get("completions"), list) and isinstance(record.get("labels"), list)


def uses(record: Record) -> tuple[str, ...]:
    return ("id", "completions", "labels", *fields.prompt_fields(record))


def parse(records: Sequence[Record]) -> Iterable[Item]:
    (record,) = records
    listed = fields.items_of(record.get("completions"), "completions")
    steps = [fields.text(step, "a step of completions") for step in listed]
    labels = fields.items_of(record.get("labels"), "labels")
    left = fields.rest(record, uses(record))
    yield solution(fields.prompt_of(record), steps, labels, fields.optional_name(record, "id"), left)


def solution(
    prompt: Prompt, steps: Sequence[str], labels: Sequence[Any], id: str | None, metadata: Mapping[str, Any]
) -> Item:
    """Return an item with one answer, of which each step has a label."""
    rated = [_label(label) for label in labels]
    if not steps or len(steps) != len(rated):
        raise BadRow(f"{len(steps)} completions and {len(rated)} labels: every step needs one label")
    ratings = {f"step {place}": label for place, label in enumerate(rated, start=1)}
    bad = ("c0",) if any(label < RIGHT for label in rated) else ()
    answer = Completion("c0", "\n".join(steps), metadata={"steps": list(steps), "labels": list(labels)})
    ranking = draft(IMPORTED, ACCEPTABLE, [["c0"]], unacceptable=bad, ratings={"c0": ratings})
    return build_item(prompt, [answer], [ranking], external_id=id, metadata=metadata)


def _label(value: object) -> float:
    """Return 1 for right, 0 for wrong, or a share in between."""
    if isinstance(value, float | int) and not isinstance(value, bool) and 0 <= value <= 1:
        return float(value)
    if isinstance(value, float | int | str | bool):
        return float(judged(value, "a label"))
    raise BadRow(f"a label must be true or false, or a number from 0 to 1, not {quoted(value)}")


FORMAT = Format(
    "stepwise",
    "an answer in steps, each labelled right or wrong (TRL stepwise)",
    fits,
    parse,
    uses,
    frozenset(FieldLook) - {FieldLook.SCORE},
)


# -- PRM800K -----------------------------------------------------------------------------------------------------------


def fits_prm800k(record: Record) -> bool:
    question, label = record.get("question"), record.get("label")
    return isinstance(question, dict) and "problem" in question and isinstance(label, dict) and "steps" in label


def parse_prm800k(records: Sequence[Record]) -> Iterable[Item]:
    """Yield items from TRL's conversion of PRM800K.

    Each alternative that was not continued gives one answer, and so does the chosen path. A step is right if it is
    rated 1, and wrong if 0 or -1. A step that a person wrote is right.
    """
    (record,) = records
    question = fields.object_of(record.get("question"), "question")
    label = fields.object_of(record.get("label"), "label")
    prompt = Prompt(fields.text(question.get("problem"), "question.problem"))
    left = {**fields.rest(record, ("question", "label", "generation")), "finish_reason": label.get("finish_reason")}
    if question.get("ground_truth_answer") is not None:
        left["ground_truth_answer"] = question["ground_truth_answer"]
    path: list[tuple[str, bool]] = []
    for value in fields.items_of(label.get("steps"), "label.steps"):
        step = fields.object_of(value, "a step")
        rated = [_rated(entry) for entry in fields.items_of(step.get("completions") or [], "the completions of a step")]
        taken = step.get("chosen_completion")
        if taken is not None and (not isinstance(taken, int) or not 0 <= taken < len(rated)):
            raise BadRow(f"chosen_completion must be the place of a completion, not {quoted(taken)}")
        for place, other in enumerate(rated):
            if place != taken:
                yield _path(prompt, [*path, other], left)
        human = step.get("human_completion")
        if taken is None and human is None:
            return
        path.append(rated[taken] if taken is not None else _rated(human))
    if path:
        yield _path(prompt, path, left)


def _rated(value: object) -> tuple[str, bool]:
    entry = {"text": value, "rating": 1} if isinstance(value, str) else fields.object_of(value, "a completion")
    rating = fields.optional_number(entry, "rating")
    return fields.text(entry.get("text"), "the text of a step"), rating is None or rating == 1


def _path(prompt: Prompt, path: Sequence[tuple[str, bool]], left: Mapping[str, Any]) -> Item:
    return solution(prompt, [text for text, _ in path], [right for _, right in path], None, left)


# -- Math-Shepherd -----------------------------------------------------------------------------------------------------

TAG = "\u043a\u0438"  # Each step of `input` ends with this tag; `label` has + or - in its places.
FIRST = "Step 1:"


def fits_shepherd(record: Record) -> bool:
    both = (record.get("input"), record.get("label"))
    return all(isinstance(text, str) and FIRST in text for text in both) and TAG in str(record["input"])


def parse_shepherd(records: Sequence[Record]) -> Iterable[Item]:
    (record,) = records
    question, _, rest = fields.text(record.get("input"), "input").partition(FIRST)
    steps = (FIRST + rest).split(TAG)
    left, labels = fields.text(record.get("label"), "label").removeprefix(question), []
    for step in steps[:-1]:
        sign = left.removeprefix(step)[:1]
        if not left.startswith(step) or sign not in ("+", "-"):
            raise BadRow("label must be input with + or - in place of each mark")
        labels.append(sign)
        left = left[len(step) + 1 :]
    metadata = fields.rest(record, ("input", "label"))
    yield solution(
        Prompt(fields.text(question.strip(), "input")), [s.strip() for s in steps[:-1]], labels, None, metadata
    )


PRM800K = Format(
    "prm800k",
    "PRM800K: a problem and rated alternatives for each step",
    fits_prm800k,
    parse_prm800k,
    fields.everything,
)
SHEPHERD = Format(
    "math-shepherd",
    "Math-Shepherd: a solution, and the same with + or - after each step",
    fits_shepherd,
    parse_shepherd,
    lambda record: ("input", "label"),
)
