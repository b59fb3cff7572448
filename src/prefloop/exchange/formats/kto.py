"""Reads single answers judged good or bad (KTO): TRL's `prompt, completion, label`, LLaMA-Factory's `kto_tag`.

Each row becomes an item with one completion and one ranking by the criterion "acceptable". A file with labels is never
read as demonstrations, however the labels are written, because its bad answers would be imitated.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from prefloop.exchange import fields
from prefloop.exchange.base import BadRow, FieldLook, Format, Record, quoted, words
from prefloop.exchange.build import ACCEPTABLE, IMPORTED, build_item, draft
from prefloop.types import Item

LABELS = ("label", "kto_tag")
GOOD = words(
    "true t yes y + 1 1.0 +1 good desirable chosen preferred accept accepted acceptable positive correct right win"
    " thumbs_up thumbsup up like liked upvote upvoted pos pass passed success safe helpful approve approved valid ok"
    " \U0001f44d :thumbsup: \u2713 \u2714 \u2705"
)
BAD = words(
    "false f no n - 0 0.0 -1 -1.0 bad undesirable rejected dispreferred reject unacceptable negative incorrect wrong"
    " lose thumbs_down thumbsdown down dislike disliked downvote downvoted neg fail failed failure unsafe unhelpful"
    " disapprove disapproved invalid \U0001f44e :thumbsdown: \u2717 \u2718 \u274c"
)

SHADE = re.compile("[\ufe0f\U0001f3fb-\U0001f3ff]")  # This is the modifier that colours an emoji.


def judged(value: object, name: str) -> bool:
    """Return a label as true or false, from any of the forms in which people write one."""
    if isinstance(value, bool):
        return value
    label = str(value).strip().casefold().replace(" ", "_") if isinstance(value, str | int | float) else ""
    label = SHADE.sub("", label)
    if label in GOOD or label in BAD:
        return label in GOOD
    raise BadRow(f"{name} must say true or false (or 1 or 0, yes or no, good or bad), not {quoted(value)}")


def fits(record: Record) -> bool:
    answered = fields.answer_name(record) or fields.prompt_name(record) in fields.CHATS
    return bool(answered) and any(record.get(name) is not None for name in LABELS)


def uses(record: Record) -> tuple[str, ...]:
    answered = fields.answer_name(record) or fields.ANSWERS[0]
    return ("id", "annotator", "simulated", *LABELS, answered, *fields.prompt_fields(record))


def parse(records: Sequence[Record]) -> Iterable[Item]:
    (record,) = records
    labels = {name: judged(record[name], name) for name in LABELS if record.get(name) is not None}
    if not labels:
        raise BadRow("no label")
    if len(set(labels.values())) > 1:
        raise BadRow("label and kto_tag contradict each other")
    good = next(iter(labels.values()))
    prompt = fields.prompt_of(record)
    answered = fields.answer_name(record)
    if answered:
        completion = fields.completion(record[answered], "c0", answered)
    else:
        question, turn = fields.split_answer(prompt.content, "a conversation with a label")
        prompt = replace(prompt, content=question, id="")
        completion = fields.answer((turn,), "c0", "the answer")
    ranking = draft(
        fields.optional_name(record, "annotator") or IMPORTED,
        ACCEPTABLE,
        [["c0"]],
        unacceptable=() if good else ("c0",),
        simulated=fields.flag(record, "simulated", False),
    )
    yield build_item(
        prompt,
        [completion],
        [ranking],
        external_id=fields.optional_name(record, "id"),
        metadata=fields.rest(record, uses(record)),
    )


FORMAT = Format(
    "kto",
    "single answers with a label, good or bad (TRL unpaired, LLaMA-Factory KTO)",
    fits,
    parse,
    uses,
    frozenset(FieldLook) - {FieldLook.SCORE},
)
