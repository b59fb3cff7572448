"""Answers whose every step is labelled right or wrong (TRL and axolotl: stepwise supervision, for process rewards).

The steps become one completion, which is acceptable if no step is wrong. Each step's label is kept as a rating of the
completion ("step 1", "step 2", ...), and the steps themselves with it, so that nothing is lost and nothing imitated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prefloop.exchange import fields
from prefloop.exchange.base import BadRow, Format, Look, Record, quoted
from prefloop.exchange.build import ACCEPTABLE, IMPORTED, build_item, draft
from prefloop.exchange.kto import judged
from prefloop.types import Completion, Item

RIGHT = 0.5  # a label that is a share of rollouts which came out right counts as right from here


def fits(record: Record) -> bool:
    return isinstance(record.get("completions"), list) and isinstance(record.get("labels"), list)


def uses(record: Record) -> tuple[str, ...]:
    return ("id", "completions", "labels", *fields.prompt_fields(record))


def parse(records: Sequence[Record]) -> Iterable[Item]:
    (record,) = records
    steps = [
        fields.text(step, "a step of completions") for step in fields.items_of(record.get("completions"), "completions")
    ]
    labels = [_label(label) for label in fields.items_of(record.get("labels"), "labels")]
    if not steps or len(steps) != len(labels):
        raise BadRow(f"{len(steps)} completions and {len(labels)} labels: every step needs one label")
    ratings = {f"step {place}": label for place, label in enumerate(labels, start=1)}
    wrong = any(label < RIGHT for label in labels)
    yield build_item(
        fields.prompt_of(record),
        [Completion("c0", "\n".join(steps), metadata={"steps": steps, "labels": list(record["labels"])})],
        [draft(IMPORTED, ACCEPTABLE, [["c0"]], unacceptable=("c0",) if wrong else (), ratings={"c0": ratings})],
        external_id=fields.optional_name(record, "id"),
        metadata=fields.rest(record, uses(record)),
    )


def _label(value: object) -> float:
    """1 for right, 0 for wrong, or a share in between."""
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
    frozenset(Look) - {Look.SCORE},
)
